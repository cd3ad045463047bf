# SPDX-License-Identifier: LGPL-2.1-or-later
"""The smallest PVH guest: its first instructions write one byte to the serial port, then it halts."""

import struct

LOAD_GPA = 0x100000
XEN_ELFNOTE_PHYS32_ENTRY = 18

# mov edx, 0x3f8; mov al, 'K'; out dx, al; again: hlt; jmp again
CODE = b"\xba\xf8\x03\x00\x00" b"\xb0K" b"\xee" b"\xf4" b"\xeb\xfd"


def image():
    """An ELF file with one loaded segment and the PVH entry note."""
    note = struct.pack("<III", 4, 4, XEN_ELFNOTE_PHYS32_ENTRY) + b"Xen\0" + struct.pack("<I", LOAD_GPA)
    headers = 64 + 2 * 56
    code_offset = 0x1000
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, LOAD_GPA, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, code_offset, LOAD_GPA, LOAD_GPA, len(CODE), len(CODE), 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, headers, 0, 0, len(note), len(note), 4)
    return (header + load + notes + note).ljust(code_offset, b"\0") + CODE
