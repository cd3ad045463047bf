/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests of virtio-blk (virtio 1.2, 5.2). */
#pragma once

#include "tests/guest/virtio.h"

enum {
    T_IN = 0,
    T_OUT = 1,
    T_FLUSH = 4,
    T_GET_ID = 8,
    T_DISCARD = 11,
    T_WRITE_ZEROES = 13,
    S_OK = 0,
    S_IOERR = 1,
    S_UNSUPP = 2,
    F_RO = 5,
    F_FLUSH = 9,
    F_CONFIG_WCE = 11,
    F_MQ = 12,
    F_DISCARD = 13,
    F_WRITE_ZEROES = 14,
    SECTOR = 512,
    BLK_WRITEBACK = 32, /* offsets in the device's configuration */
    BLK_NUM_QUEUES = 34,
};

typedef struct {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t status;
} Request;
