/* SPDX-License-Identifier: MIT */
/* Stand-in: the name is wanted by bcc's helpers; the program uses no page size. */
#define PAGE_SIZE 4096
