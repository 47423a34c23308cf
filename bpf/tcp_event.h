/* SPDX-License-Identifier: MIT */
#ifndef REGTRACE_TCP_EVENT_H
#define REGTRACE_TCP_EVENT_H

#include <linux/types.h>

/*
 * The wire record: what the kernel's side hands to user space, once per TCP state transition.
 *
 * This header is the only definition. `tracer/events.py` mirrors it as a numpy dtype, and a test compiles this file with
 * the system's C compiler and compares `sizeof` and every `offsetof`. Wide fields come first and padding is written out,
 * so that neither side has hidden holes and no byte of kernel stack leaves uninitialised.
 *
 * A value is valid only if its TCP_EVENT_HAS_* bit is set in `flags`; zero never means "unknown". Fields without such a
 * bit (ts_ns, skaddr, daddr, dport, family, old_state, new_state, endpoint_id) are always valid.
 */
struct tcp_event {
	__u64 ts_ns;          /* CLOCK_BOOTTIME, the one clock read of this event */
	__u64 skaddr;         /* address of struct sock; the slab reuses it within microseconds, so it is no identity alone */
	__u64 cgroup_id;      /* of the task that was running: cgroup v2 id (inode number) */
	__u64 bytes_received; /* payload received in order, without the sequence number of the peer's FIN */
	__u64 bytes_acked;    /* payload the peer acknowledged, without the sequence numbers of our SYN and FIN */
	__u32 netns;          /* inode number of the network namespace */
	__u32 pid;            /* of the task that was running: thread group id in the initial pid namespace */
	__u32 srtt_us;        /* smoothed round trip time, microseconds */
	__u32 retransmits;    /* segments retransmitted so far, the SYN's included */
	__u32 unread_bytes;   /* payload received and not yet copied to the application (rcv_nxt - copied_seq, less a FIN) */
	__u32 idle_ms;        /* since the last segment with data was received, or since the connection was established */
	__u32 sk_err;         /* errno the kernel left for the application; 0 is "no error"; read at -> CLOSE */
	__u32 endpoint_id;    /* which entry of the watch map matched; 0: none, it is followed for its owner's sake */
	__u32 flags;          /* TCP_EVENT_* */
	__u32 reserved;       /* 0; keeps the addresses and the whole record aligned to 8 bytes */
	__u16 sport;          /* host byte order; not yet chosen at SYN_SENT unless the caller bound it */
	__u16 dport;          /* host byte order */
	__u16 family;         /* AF_INET or AF_INET6, of the socket (an AF_INET6 socket may carry a v4-mapped address) */
	__u8 old_state;       /* enum of include/net/tcp_states.h: TCP_ESTABLISHED 1 ... TCP_CLOSING 11 */
	__u8 new_state;
	__u8 saddr[16];       /* network byte order; IPv4 as ::ffff:a.b.c.d */
	__u8 daddr[16];
	__u8 comm[16];        /* of the task that was running, as the task set it: any bytes, NUL-terminated */
};

enum tcp_event_flags {
	TCP_EVENT_HAS_TASK = 1 << 0,         /* pid and comm */
	TCP_EVENT_HAS_CGROUP = 1 << 1,
	TCP_EVENT_OWNER = 1 << 2,            /* the task is the one that called connect(); otherwise it is whoever was running */
	TCP_EVENT_HAS_NETNS = 1 << 3,
	TCP_EVENT_HAS_SADDR = 1 << 4,
	TCP_EVENT_HAS_SPORT = 1 << 5,
	TCP_EVENT_HAS_RECEIVED = 1 << 6,
	TCP_EVENT_HAS_ACKED = 1 << 7,
	TCP_EVENT_HAS_SRTT = 1 << 8,
	TCP_EVENT_HAS_RETRANSMITS = 1 << 9,
	TCP_EVENT_HAS_UNREAD = 1 << 10,
	TCP_EVENT_HAS_IDLE = 1 << 11,
	TCP_EVENT_HAS_SK_ERR = 1 << 12,
	TCP_EVENT_SAMPLE = 1 << 13,          /* no transition: the counters of a socket that stays in old_state == new_state */
	TCP_EVENT_ADOPTED = 1 << 14,         /* no transition: a socket found open in old_state == new_state; never set here */
};

/* Events the ring had no room for. One per CPU, written by that CPU alone; user space sums them up. */
struct tcp_loss {
	__u64 lost;       /* events so far */
	__u64 last_ts_ns; /* CLOCK_BOOTTIME of the last of them, 0 while there was none */
};

/* Key and value of the longest-prefix-match map of registry addresses. */
struct watch_prefix_key {
	__u32 prefix_bits; /* of address, 0..128; IPv4 prefixes count from 96 */
	__u8 address[16];
};

struct watch_prefix {
	__u32 prefix_id;   /* for watch_ports; changes with each new content of the map */
	__u32 endpoint_id; /* for any port that watch_ports does not list; 0: only listed ports are watched */
};

/* Key and value of the map of those who talk to what is watched, and may be told there to fetch from elsewhere. */
struct client_key {
	__u64 cgroup_id;
	__u8 comm[16];   /* as in struct tcp_event, padded with NULs */
};

struct client {
	__u64 opened_ns; /* CLOCK_BOOTTIME when it last opened a connection to what is watched, or was said to have one */
	__s32 left;      /* so many of its connections to elsewhere are followed until it opens the next one */
	__u32 reserved;  /* 0 */
};

struct following {
	__u32 wanted;    /* written by user space, once: then no socket is followed yet */
	__u32 sockets;   /* followed now */
};

/* Key of the map of ports; its value is an endpoint id (__u32). */
struct watch_port_key {
	__u32 prefix_id;
	__u32 port; /* host byte order */
};

#endif
