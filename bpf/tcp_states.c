/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Streams the TCP state transitions of sockets whose remote address is watched.
 *
 * `tcp_states` sits on the raw tracepoint sock:inet_sock_set_state, which fires inside tcp_set_state() *before* the new
 * state is written: the states are taken from the tracepoint's arguments, never from the socket.
 * `tcp_states_nested` is attached to it too, for the transitions that the kernel does not show to a program that is running.
 * `tcp_sample` is attached to nothing. User space runs it (BPF_PROG_TEST_RUN) on the address of a socket it believes to be
 * open, to read the counters of a connection that makes no transition, such as a long download.
 *
 * Kernel layout: every OFF_* is the byte offset of a member, read from the running kernel's BTF by bpf/layout.py and
 * given on the compiler's command line. An optional member that the kernel lacks is not defined, and its field is flagged
 * invalid. Memory of the kernel is read with bpf_probe_read_kernel only, so a stale address gives an error or stale
 * bytes, never a fault.
 */
#include <linux/bpf.h>
#include "tcp_event.h"

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6

enum {
	TCP_ESTABLISHED = 1, TCP_SYN_SENT, TCP_SYN_RECV, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_TIME_WAIT,
	TCP_CLOSE, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_LISTEN, TCP_CLOSING, TCP_NEW_SYN_RECV,
};

/* States in which both sides have been synchronised: receive sequence numbers and times have a meaning. */
#define SYNCHRONISED ((1 << TCP_ESTABLISHED) | (1 << TCP_FIN_WAIT1) | (1 << TCP_FIN_WAIT2) | (1 << TCP_CLOSE_WAIT) | \
		      (1 << TCP_LAST_ACK) | (1 << TCP_CLOSING))
/* States in which our FIN has been queued, so that write_seq counts it. */
#define FIN_SENT ((1 << TCP_FIN_WAIT1) | (1 << TCP_FIN_WAIT2) | (1 << TCP_LAST_ACK) | (1 << TCP_CLOSING))

/* User space polls: no wake-up per event, which is what other tools pay most for. */
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
BPF_PERCPU_ARRAY(loss, struct tcp_loss, 1);
/* What tcp_states has been shown on this CPU, for tcp_states_nested; see the theory of operation above them. */
#define MARK_BITS 10
#define MARKS (1 << MARK_BITS)
struct nesting {
	u64 key;   /* of the last transition shown at level 2 */
	u64 level; /* how many of the two programs are running on this CPU */
};
BPF_PERCPU_ARRAY(marks, u64, MARKS);
BPF_PERCPU_ARRAY(nesting, struct nesting, 1);
BPF_LPM_TRIE(watch_prefixes, struct watch_prefix_key, struct watch_prefix, WATCH_PREFIXES_MAX);
BPF_HASH(watch_ports, struct watch_port_key, u32, WATCH_PORTS_MAX);
/* For following clients to elsewhere; see the theory of operation above is_followed(). */
BPF_ARRAY(following, struct following, 1);
BPF_TABLE("lru_hash", struct client_key, struct client, clients, CLIENTS_MAX);
BPF_HASH(followed, u64, u8, FOLLOWED_MAX);

/* The head of struct sock_common up to the last member needed: one read instead of eight. */
struct common {
	u64 words[(COMMON_BYTES + 7) / 8];
};
#define COMMON(common, type, offset) (*(type *)((char *)(common)->words + (offset)))

/* The stretch of struct tcp_sock where most of its counters lie; what lies elsewhere is read by itself. */
struct window {
	u64 words[(WINDOW_BYTES + 7) / 8 + 1];
};
#define IN_WINDOW(destination, offset) \
	((offset) >= WINDOW_START && (offset) + sizeof(destination) <= WINDOW_START + WINDOW_BYTES)
#define READ_COUNTER(destination, sk, window, offset) \
	(IN_WINDOW(destination, offset) ? \
	 ((destination) = *(typeof(destination) *)((char *)(window)->words + (IN_WINDOW(destination, offset) ? (offset) - WINDOW_START : 0)), 0) : \
	 READ(destination, sk, offset))

#define READ(destination, sk, offset) bpf_probe_read_kernel(&(destination), sizeof(destination), (void *)((sk) + (offset)))

/* The remote address as a key: IPv4 in its v4-mapped form, as an AF_INET6 socket that talks IPv4 has it anyway. */
static __always_inline int remote_address(struct common *common, u8 *address)
{
	u64 *halves = (u64 *)address;

	switch (COMMON(common, u16, OFF_FAMILY)) {
	case AF_INET:
		halves[0] = 0;
		((u32 *)address)[2] = __builtin_bswap32(0x0000ffff);
		((u32 *)address)[3] = COMMON(common, u32, OFF_DADDR);
		return 0;
#ifdef OFF_V6_DADDR
	case AF_INET6:
		((u32 *)address)[0] = COMMON(common, u32, OFF_V6_DADDR);
		((u32 *)address)[1] = COMMON(common, u32, OFF_V6_DADDR + 4);
		((u32 *)address)[2] = COMMON(common, u32, OFF_V6_DADDR + 8);
		((u32 *)address)[3] = COMMON(common, u32, OFF_V6_DADDR + 12);
		return 0;
#endif
	}
	return -1;
}

/* The endpoint that watches this socket's remote side, or 0. Unwatched traffic pays for one look-up. */
static __always_inline u32 watched_endpoint(struct common *common, u8 *address)
{
	struct watch_prefix_key key;
	struct watch_port_key port_key;
	struct watch_prefix *prefix;
	u32 *endpoint_id;

	key.prefix_bits = 128;
	__builtin_memcpy(key.address, address, 16);
	prefix = watch_prefixes.lookup(&key);
	if (!prefix)
		return 0;
	port_key.prefix_id = prefix->prefix_id;
	port_key.port = __builtin_bswap16(COMMON(common, u16, OFF_DPORT));
	endpoint_id = watch_ports.lookup(&port_key);
	return endpoint_id ? *endpoint_id : prefix->endpoint_id;
}

static __always_inline void count_loss(u64 ts_ns)
{
	int zero = 0;
	struct tcp_loss *cpu_loss = loss.lookup(&zero);

	/* Atomic, because tcp_states_nested may interrupt tcp_states here. */
	if (cpu_loss) {
		cpu_loss->last_ts_ns = ts_ns; /* first: who sees the count must not see an older time */
		__sync_fetch_and_add(&cpu_loss->lost, 1);
	}
}

#if defined(OFF_BYTES_RECEIVED) && defined(OFF_FLAGS)
#define ZERO_RECEIVED TCP_EVENT_HAS_RECEIVED
#else
#define ZERO_RECEIVED 0
#endif
#if defined(OFF_BYTES_ACKED) && defined(OFF_SND_UNA) && defined(OFF_WRITE_SEQ)
#define ZERO_ACKED TCP_EVENT_HAS_ACKED
#else
#define ZERO_ACKED 0
#endif
#ifdef OFF_TOTAL_RETRANS
#define ZERO_RETRANSMITS TCP_EVENT_HAS_RETRANSMITS
#else
#define ZERO_RETRANSMITS 0
#endif
#define COUNTERS_FROM_ZERO (ZERO_RECEIVED | ZERO_ACKED | ZERO_RETRANSMITS)

/* Byte counters of struct tcp_sock count sequence numbers; SYN and FIN take one each and are no payload. */
static __always_inline u32 fill_counters(struct tcp_event *event, u64 sk, struct common *common, u32 old_state)
{
	u32 flags = 0, synchronised = (1 << old_state) & SYNCHRONISED;
	u32 fin_received = 0;
	struct window window;

	/* A socket that begins to connect has no history: tcp_disconnect() and the allocation clear the counters. */
	if (old_state == TCP_CLOSE)
		return COUNTERS_FROM_ZERO;
	if (WINDOW_BYTES && bpf_probe_read_kernel(&window, WINDOW_BYTES, (void *)(sk + WINDOW_START)))
		return 0;
#ifdef OFF_FLAGS
	/* SOCK_DONE is set by tcp_fin() and by nothing else, before it changes the state. */
	fin_received = (COMMON(common, u64, OFF_FLAGS) >> SOCK_DONE_BIT) & 1;
#endif
#if defined(OFF_BYTES_RECEIVED) && defined(OFF_FLAGS)
	u64 received = 0;
	if (!READ_COUNTER(received, sk, &window, OFF_BYTES_RECEIVED)) {
		event->bytes_received = received >= fin_received ? received - fin_received : 0;
		flags |= TCP_EVENT_HAS_RECEIVED;
	}
#endif
#if defined(OFF_BYTES_ACKED) && defined(OFF_SND_UNA) && defined(OFF_WRITE_SEQ)
	u64 acked = 0;
	u32 snd_una = 0, write_seq = 1;
	if (!READ_COUNTER(acked, sk, &window, OFF_BYTES_ACKED) && !READ_COUNTER(snd_una, sk, &window, OFF_SND_UNA) && !READ_COUNTER(write_seq, sk, &window, OFF_WRITE_SEQ)) {
		u64 controls = acked > 0; /* an active opener's first acknowledgement is that of its SYN */
		if (((1 << old_state) & FIN_SENT) && snd_una == write_seq)
			controls++;
		event->bytes_acked = acked >= controls ? acked - controls : 0;
		flags |= TCP_EVENT_HAS_ACKED;
	}
#endif
#ifdef OFF_SRTT_US
	u32 srtt_us_shifted = 0;
	if (!READ_COUNTER(srtt_us_shifted, sk, &window, OFF_SRTT_US) && srtt_us_shifted) {
		event->srtt_us = srtt_us_shifted >> 3; /* the kernel keeps eight times the value */
		flags |= TCP_EVENT_HAS_SRTT;
	}
#endif
#ifdef OFF_TOTAL_RETRANS
	if (!READ_COUNTER(event->retransmits, sk, &window, OFF_TOTAL_RETRANS))
		flags |= TCP_EVENT_HAS_RETRANSMITS;
#endif
#if defined(OFF_RCV_NXT) && defined(OFF_COPIED_SEQ) && defined(OFF_FLAGS)
	u32 rcv_nxt = 0, copied_seq = 0;
	if (synchronised && !READ_COUNTER(rcv_nxt, sk, &window, OFF_RCV_NXT) && !READ_COUNTER(copied_seq, sk, &window, OFF_COPIED_SEQ)) {
		s32 unread = rcv_nxt - copied_seq - fin_received;
		event->unread_bytes = unread > 0 ? unread : 0; /* -1: the application has read the FIN as well */
		flags |= TCP_EVENT_HAS_UNREAD;
	}
#endif
#if defined(OFF_LRCVTIME) && defined(JIFFY_NS)
	u32 last_received = 0;
	if (synchronised && !READ(last_received, sk, OFF_LRCVTIME)) {
		u64 idle_jiffies = (u32)((u32)bpf_jiffies64() - last_received);
		event->idle_ms = idle_jiffies * JIFFY_NS / 1000000;
		flags |= TCP_EVENT_HAS_IDLE;
	}
#endif
	return flags;
}

static __always_inline u32 fill_identity(struct tcp_event *event, u64 sk, struct common *common, u32 old_state)
{
	u32 flags = 0;
	u32 *saddr = (u32 *)event->saddr;

	if (event->family == AF_INET) {
		saddr[2] = __builtin_bswap32(0x0000ffff);
		saddr[3] = COMMON(common, u32, OFF_RCV_SADDR);
		if (saddr[3])
			flags |= TCP_EVENT_HAS_SADDR;
#ifdef OFF_V6_RCV_SADDR
	} else {
		saddr[0] = COMMON(common, u32, OFF_V6_RCV_SADDR);
		saddr[1] = COMMON(common, u32, OFF_V6_RCV_SADDR + 4);
		saddr[2] = COMMON(common, u32, OFF_V6_RCV_SADDR + 8);
		saddr[3] = COMMON(common, u32, OFF_V6_RCV_SADDR + 12);
		if (saddr[0] | saddr[1] | saddr[2] | saddr[3])
			flags |= TCP_EVENT_HAS_SADDR;
#endif
	}
	/*
	 * inet_sport and not skc_num: tcp_set_state() has already given the latter back when it fires for CLOSE. But where a
	 * socket connects again, inet_sport is still that of the attempt before, unless the caller bound one.
	 */
	u16 sport = 0;
	if ((old_state != TCP_CLOSE || COMMON(common, u16, OFF_NUM)) && !READ(sport, sk, OFF_INET_SPORT) && sport) {
		event->sport = __builtin_bswap16(sport);
		flags |= TCP_EVENT_HAS_SPORT;
	}
#if defined(OFF_NET) && defined(OFF_NET_INUM)
	u64 net = COMMON(common, u64, OFF_NET);
	if (!READ(event->netns, net, OFF_NET_INUM))
		flags |= TCP_EVENT_HAS_NETNS;
#endif
	return flags;
}

/* The time of the event. */
static __always_inline u64 emit(u64 sk, struct common *common, u8 *address, u32 endpoint_id, u32 old_state,
				 u32 new_state, u32 flags)
{
	u64 ts_ns = bpf_ktime_get_boot_ns();
	struct tcp_event *event = events.ringbuf_reserve(sizeof(struct tcp_event));

	if (!event) {
		count_loss(ts_ns);
		return ts_ns;
	}
	__builtin_memset(event, 0, sizeof(*event)); /* the ring hands out old bytes */
	event->ts_ns = ts_ns;
	event->skaddr = sk;
	event->endpoint_id = endpoint_id;
	event->family = COMMON(common, u16, OFF_FAMILY);
	event->dport = __builtin_bswap16(COMMON(common, u16, OFF_DPORT));
	event->old_state = old_state;
	event->new_state = new_state;
	__builtin_memcpy(event->daddr, address, 16);
	flags |= fill_identity(event, sk, common, old_state);
	flags |= fill_counters(event, sk, common, old_state);
#ifdef OFF_SK_ERR
	/* What matters of it is why a connection ended. */
	if (new_state == TCP_CLOSE && !READ(event->sk_err, sk, OFF_SK_ERR))
		flags |= TCP_EVENT_HAS_SK_ERR;
#endif
	if (!(flags & TCP_EVENT_SAMPLE)) {
		event->pid = bpf_get_current_pid_tgid() >> 32;
		bpf_get_current_comm(event->comm, sizeof(event->comm));
		event->cgroup_id = bpf_get_current_cgroup_id();
		flags |= TCP_EVENT_HAS_TASK | TCP_EVENT_HAS_CGROUP;
		/* connect() sets SYN_SENT in the caller's context; every later transition may run in softirq. */
		if (old_state == TCP_CLOSE && new_state == TCP_SYN_SENT)
			flags |= TCP_EVENT_OWNER;
	}
	event->flags = flags;
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return ts_ns;
}

static __always_inline int is_tcp(u64 sk)
{
	u16 protocol = 0;

	READ(protocol, sk, OFF_PROTOCOL);
	return protocol == IPPROTO_TCP; /* MPTCP, SCTP and DCCP share the tracepoint */
}

/* A transition in one word: of a socket's address only what is the same for all is shifted out. */
#define KEY(sk, old_state, new_state) ((sk) << 8 | (old_state) << 4 | (new_state))
/* Multiplied (2^32 / golden ratio), because sockets lie at multiples of their size in slabs that are multiples of a page. */
#define MARK_INDEX(sk) (((u32)((sk) >> 6) * 0x9E3779B1U) >> (32 - MARK_BITS))

static __always_inline void current_client(struct client_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(key->comm, sizeof(key->comm));
}

static __always_inline void stop_following(u64 sk)
{
	u32 zero = 0;
	struct following *state = following.lookup(&zero);

	if (state && state->sockets && !followed.delete(&sk))
		__sync_fetch_and_add(&state->sockets, -1);
}

/*
 * Theory of operation of following. A registry's API redirects its clients to hosts that nobody listed, a moment before they
 * connect there: too late for user space to watch these. So whoever opens a connection to what is watched is kept for a
 * while, by cgroup and name, and what such a client opens to elsewhere is told from its first transition on, with endpoint 0.
 * User space knows from the DNS answers whether it wants it. Unwatched traffic pays for it where it opens a connection, with one
 * look-up, and while sockets are being followed with one at each transition; nothing at all unless user space asked for it.
 *
 * Bounds: a client has FOLLOWED_PER_OPENING connections to elsewhere for each one to what is watched, FOLLOWED_MAX sockets are
 * followed at a time. A socket whose end was missed is forgotten when its address opens the next connection.
 */
static __always_inline int is_followed(u64 sk, int is_opening)
{
	u32 zero = 0;
	struct following *state = following.lookup(&zero);
	struct client_key key;
	struct client *client;
	u8 one = 1;

	if (!state || !state->wanted)
		return 0;
	if (!is_opening)
		return state->sockets && followed.lookup(&sk);
	stop_following(sk);
	current_client(&key);
	client = clients.lookup(&key);
	if (!client || client->left <= 0 || (s64)(bpf_ktime_get_boot_ns() - client->opened_ns) > (s64)CLIENT_NS || !is_tcp(sk))
		return 0;
	__sync_fetch_and_add(&client->left, -1);
	if (followed.insert(&sk, &one))
		return 0;
	__sync_fetch_and_add(&state->sockets, 1);
	return 1;
}

static __always_inline void note_client(u64 ts_ns)
{
	u32 zero = 0;
	struct following *state = following.lookup(&zero);
	struct client client = { .opened_ns = ts_ns, .left = FOLLOWED_PER_OPENING };
	struct client_key key;

	if (!state || !state->wanted)
		return;
	current_client(&key);
	clients.update(&key, &client);
}

static __always_inline int transition(u64 sk, u32 old_state, u32 new_state)
{
	int is_opening = old_state == TCP_CLOSE && new_state == TCP_SYN_SENT;
	struct common common;
	u8 address[16] __attribute__((aligned(8)));
	u32 endpoint_id;
	u64 ts_ns;

	if (bpf_probe_read_kernel(&common, COMMON_BYTES, (void *)sk) || remote_address(&common, address))
		return 0;
	endpoint_id = watched_endpoint(&common, address);
	if (endpoint_id ? !is_tcp(sk) : !is_followed(sk, is_opening))
		return 0;
	ts_ns = emit(sk, &common, address, endpoint_id, old_state, new_state, 0);
	if (endpoint_id && is_opening)
		note_client(ts_ns);
	if (new_state == TCP_CLOSE)
		stop_following(sk);
	return 0;
}

/*
 * Theory of operation of the two programs. The kernel runs a raw tracepoint program once at a time per CPU (since 6.2; before, it
 * nests). connect() and close() change states with softirqs enabled, so a packet may arrive while tcp_states runs, and the
 * transitions it causes are not shown to tcp_states. Only a counter in bpf_prog_info would know:
 *
 *     process   tcp_states(E) ......|~~~~~~~~~~~ softirq ~~~~~~~~~~~|...... ends     tcp_states_nested(E)
 *                                     tcp_states(N) is skipped
 *                                     tcp_states_nested(N) emits N
 *
 * tcp_states_nested is attached behind tcp_states and takes what that was not shown. At most one of them is running at a
 * level, so the other one is free for the level above (two levels are enough unless a task is preempted within one of them,
 * which keeps it busy for others on its CPU). How it knows:
 *
 * - level 1, nothing interrupted: tcp_states leaves a mark for the transition, which tcp_states_nested takes away. Marks are
 *   spread by socket, because a softirq between the two leaves and takes marks of its own.
 * - level 2, in a softirq within one of the two: nesting.key is that of the last transition that tcp_states was shown at this
 *   level since level 1 began: none where it is skipped.
 */
int tcp_states(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], *mark;
	u64 old_state = ctx->args[1] & 15, new_state = ctx->args[2] & 15;
	u32 zero = 0, index = MARK_INDEX(sk);
	volatile struct nesting *nested;

	/* tcp_close_state() maps FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING and CLOSE onto themselves: no transition. */
	if (old_state == new_state)
		return 0;
	nested = nesting.lookup(&zero);
	mark = marks.lookup(&index);
	if (!nested || !mark)
		return 0;
	nested->level++;
	if (nested->level == 1) {
		nested->key = 0;
		*mark = KEY(sk, old_state, new_state);
	} else {
		nested->key = KEY(sk, old_state, new_state);
	}
	transition(sk, old_state, new_state);
	nested->level--;
	return 0;
}

int tcp_states_nested(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], *mark, key;
	u64 old_state = ctx->args[1] & 15, new_state = ctx->args[2] & 15;
	u32 zero = 0, index = MARK_INDEX(sk), shown;
	volatile struct nesting *nested;

	if (old_state == new_state)
		return 0;
	nested = nesting.lookup(&zero);
	mark = marks.lookup(&index);
	if (!nested || !mark)
		return 0;
	key = KEY(sk, old_state, new_state);
	nested->level++;
	if (nested->level == 1) {
		shown = *mark == key;
		if (shown)
			*mark = 0;
	} else {
		shown = nested->key == key;
	}
	nested->key = 0;
	if (!shown)
		transition(sk, old_state, new_state);
	nested->level--;
	return 0;
}

int tcp_sample(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0];
	struct common common;
	u8 address[16] __attribute__((aligned(8)));
	u32 endpoint_id, state;

	/*
	 * The socket may have been closed, and its memory taken by another connection, since user space looked. The record
	 * goes through the same ring as the transitions, so its place among them says whose it is; a socket that is closed
	 * or no longer watched gives none.
	 */
	if (bpf_probe_read_kernel(&common, COMMON_BYTES, (void *)sk) || remote_address(&common, address))
		return 0;
	state = COMMON(&common, u8, OFF_STATE) & 15;
	if (state == TCP_CLOSE || state == TCP_LISTEN)
		return 0;
	endpoint_id = watched_endpoint(&common, address);
	if (endpoint_id && is_tcp(sk))
		emit(sk, &common, address, endpoint_id, state, state, TCP_EVENT_SAMPLE);
	return 0;
}
