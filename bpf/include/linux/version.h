/* SPDX-License-Identifier: MIT */
/* Stand-in: bcc compares LINUX_VERSION_CODE in its helpers; nothing of regtrace depends on it. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
