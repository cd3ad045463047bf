/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A network namespace for the calling process, so that tests may make interfaces. */
#pragma once

#include <stdbool.h>

/* Returns: NULL, or why there is none and tests that need it have to be skipped. */
const char *kumo_test_enter_netns(void);
