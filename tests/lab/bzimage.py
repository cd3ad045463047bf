# SPDX-License-Identifier: LGPL-2.1-or-later
"""Takes the ELF kernel (vmlinux) out of an x86 bzImage.

The setup header (Documentation/arch/x86/boot.rst in Linux) names the compressed payload: payload_offset counts from the
start of the protected-mode code, which follows setup_sects + 1 sectors of 512 bytes.
"""

import lzma
import gzip
import struct
import subprocess
import sys


class BadKernel(Exception):
    """The file is not a bzImage with a payload that is understood."""


def _filter(command, data):
    """Decompresses with a tool; its complaint about bytes after the end is expected, so only the output counts."""
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout


def decompress(payload):
    """Decompresses a payload by its magic number; the last four bytes are the size that Linux appends."""
    body = payload[:-4]
    size = struct.unpack("<I", payload[-4:])[0]
    if payload.startswith(b"\x02\x21\x4c\x18"):
        data = _filter(["lz4", "-dc"], body)
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        data = _filter(["zstd", "-dc"], body)
    elif payload.startswith(b"\xfd7zXZ\x00"):
        data = lzma.LZMADecompressor().decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        data = gzip.decompress(payload)
        size = len(data)
    else:
        raise BadKernel(f"unknown compression, magic {payload[:6].hex()}")
    if len(data) != size:
        raise BadKernel(f"payload unpacks to {len(data)} bytes, its trailer says {size}")
    return data


def extract(image):
    """Returns the bytes of the ELF kernel inside the bzImage."""
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        raise BadKernel("no setup header")
    version = struct.unpack_from("<H", image, 0x206)[0]
    if version < 0x208:
        raise BadKernel(f"boot protocol {version:#x} is older than 2.08")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    if length < 16 or start + length > len(image):
        raise BadKernel("payload lies outside the file")
    elf = decompress(image[start:start + length])
    if not elf.startswith(b"\x7fELF"):
        raise BadKernel("payload is not an ELF file")
    return elf


def main():
    source, target = sys.argv[1:]
    with open(source, "rb") as stream:
        image = stream.read()
    try:
        elf = extract(image)
    except BadKernel as error:
        sys.exit(f"{source}: {error}")
    with open(target, "wb") as stream:
        stream.write(elf)


if __name__ == "__main__":
    main()
