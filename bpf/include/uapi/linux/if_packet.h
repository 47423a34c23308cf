/* SPDX-License-Identifier: MIT */
/* Stand-in, empty on purpose: bcc includes the name but needs nothing of it here. */
