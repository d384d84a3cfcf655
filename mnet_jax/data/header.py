"""Reads the size that an image file declares, before an image library allocates memory for it.

Pillow allocates memory while it opens some files: for the canvas of a WebP, and for everything
after the first frame of an animated PNG or GIF. Its BMP and JPEG readers allocate nothing until
they decode, so for these formats the size that Pillow reports is early enough.

Sources: PNG, W3C 2003, section 5.3 and 11.2.2; GIF89a, CompuServe 1990, sections 18 to 24; WebP,
RFC 9649, section 2.
"""

from typing import BinaryIO

JPEG, PNG, BMP, RIFF, WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF", b"WEBP"
GIF = (b"GIF87a", b"GIF89a")


def declared_size(file: BinaryIO) -> tuple[int, int] | None:
    """Returns (width, height) of a PNG, GIF or WebP file; None for other or damaged files.

    If a file declares several sizes, the result is the largest width and the largest height. The
    file's position afterwards is undefined.
    """
    file.seek(0)
    start = file.read(30)
    if start.startswith(PNG):
        return _png(file)
    if start.startswith(GIF):
        return _gif(file)
    if start.startswith(RIFF) and start[8:12] == WEBP:
        return _webp(start)
    return None


def _png(file: BinaryIO) -> tuple[int, int] | None:
    """Reads all IHDR chunks before the pixels, because Pillow uses the last one."""
    place = len(PNG)
    width = height = 0
    while True:
        file.seek(place)
        chunk = file.read(16)
        length, kind = int.from_bytes(chunk[:4], "big"), chunk[4:8]
        if len(kind) < 4 or kind in (b"IDAT", b"fdAT", b"IEND"):
            break
        if kind == b"IHDR" and len(chunk) == 16:
            width = max(width, int.from_bytes(chunk[8:12], "big"))
            height = max(height, int.from_bytes(chunk[12:16], "big"))
        place += 8 + length + 4  # length and kind, data, checksum
    return (width, height) if width and height else None


def _gif(file: BinaryIO) -> tuple[int, int] | None:
    """Reads the screen size and the first frame, which may extend beyond the screen."""
    file.seek(6)
    screen = file.read(7)
    if len(screen) < 7:
        return None
    width, height = _little(screen[0:2]), _little(screen[2:4])
    file.seek(_palette(screen[4]), 1)
    while (kind := file.read(1)) == b"!":
        file.seek(1, 1)
        while length := file.read(1)[:1].strip(b"\0"):
            file.seek(length[0], 1)
    if kind == b"," and len(frame := file.read(8)) == 8:
        left, top, across, down = (_little(frame[i : i + 2]) for i in range(0, 8, 2))
        width, height = max(width, left + across), max(height, top + down)
    return width, height


def _palette(flags: int) -> int:
    """Returns the size in bytes of the palette that follows, given the flags."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _webp(start: bytes) -> tuple[int, int] | None:
    """Reads the first chunk: the canvas of an extended file, else the only frame."""
    kind = start[12:16]
    if len(start) < 30:
        return None
    if kind == b"VP8X":
        return _little(start[24:27]) + 1, _little(start[27:30]) + 1
    if kind == b"VP8L":
        bits = _little(start[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _little(start[26:28]) & 0x3FFF, _little(start[28:30]) & 0x3FFF
    return None


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
