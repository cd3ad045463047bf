/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Damage for JSON documents, chosen by bytes: what fuzz targets of saved state do to a good one. */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/**
 * fake_json_change:
 * @json: the document
 * @data: four bytes for each change: two choose the value by its place in a walk over all of them,
 *   one what is done to it, one with what
 * @size: of @data in bytes; what is left over at its end says nothing
 * @max: changes at most
 */
void fake_json_change(json_t *json, const uint8_t *data, size_t size, unsigned max);
