/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a definition says of the memory of one NUMA node of the guest (a cell), or of all memory:
 * @cell is then -1.
 */
#pragma once

#include "driver/compat.h"

#include "domain_conf.h"

/* What the VMM adds to a running machine comes in pieces of this size. */
#define KUMO_MEMORY_PIECE_KIB (128ULL * 1024)

/* Returns: the only node of the host that it is bound to, or -1. */
int kumoMemoryHostNode(const virDomainDef *def, int cell);

/* May other processes map it? */
bool kumoMemoryIsShared(const virDomainDef *def, int cell);

/* Returns: (transfer none) (nullable): the huge pages that it is made of. */
const virDomainHugePage *kumoMemoryHugePage(const virDomainDef *def, int cell);

/**
 * kumoMemoryNodesByGroup:
 *
 * Is it a control group that keeps all memory on the nodes of <numatune>? Other modes are only
 * where memory is to come from first, or in turn: that is the process's own policy. So is the mode
 * "strict" of an ordinary user, who has no groups.
 */
bool kumoMemoryNodesByGroup(const virDomainDef *def, bool privileged);

/* Is that part of the memory in a file of its own? Huge pages come first: they are no file's. */
bool kumoMemoryIsFile(const virDomainDef *def, int cell);

/* Returns: (transfer none) (nullable): the virtio-mem device that makes it grow. */
virDomainMemoryDef *kumoMemoryVirtioMem(const virDomainDef *def, int cell);

/* Returns: the cell that a memory device belongs to: the first unless it names one; -1 without
 * cells. */
int kumoMemoryCell(const virDomainDef *def, const virDomainMemoryDef *mem);

/* Returns: how much memory modules may add to the running machine, KiB; whole pieces. */
unsigned long long kumoMemoryRoom(const virDomainDef *def);

/* What belongs to virtio-mem alone, KiB: the size of a block, of which the guest is asked to have,
 * and has. */
unsigned long long kumoMemoryBlock(const virDomainMemoryDef *mem);
unsigned long long kumoMemoryRequested(const virDomainMemoryDef *mem);
unsigned long long kumoMemoryCurrent(const virDomainMemoryDef *mem);
void kumoMemorySetRequested(virDomainMemoryDef *mem, unsigned long long kib);
void kumoMemorySetCurrent(virDomainMemoryDef *mem, unsigned long long kib);

/* Returns: the sizes of all virtio-mem devices, KiB. */
unsigned long long kumoMemoryVirtioMemTotal(const virDomainDef *def);

/* Has the domain a memory balloon? */
bool kumoHasBalloon(const virDomainDef *def);
