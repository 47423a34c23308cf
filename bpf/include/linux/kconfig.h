/* SPDX-License-Identifier: MIT */
/* Stand-in for the build configuration: what bcc asks of it. */
#define CONFIG_BPF_SYSCALL 1
