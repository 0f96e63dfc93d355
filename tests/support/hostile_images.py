"""Unusual, damaged and malicious files: each with its pixels, or the reason why it is rejected."""

import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def fields(*colours: tuple[int, int, int]) -> np.ndarray:
    """A picture of 48×32 pixels with four colours, so that each rotation and reflection looks different."""
    return np.repeat(np.repeat(np.array(colours, np.uint8).reshape(2, 2, 3), 16, axis=0), 24, axis=1)


PICTURE = fields(RED, GREEN, BLUE, WHITE)
OTHER = fields(WHITE, BLUE, RED, GREEN)
GREY = np.repeat(np.arange(0, 240, 5, dtype=np.uint8)[None], 32, axis=0)
GREY_RGB = np.dstack([GREY] * 3)
NOISE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
# Written by pillow-heif 1.8.1 with chroma=444 and quality=90; it is no dependency, since its encoder x265 is GPL.
HEIC = Path(__file__).parent / "heic"


@dataclass(frozen=True)
class HostileFile:
    """A file's bytes, and its pixels within ``tolerance`` or a regex for the reason why it is rejected."""

    content: bytes
    pixels: np.ndarray | None = None
    tolerance: int = 0
    reason: str | None = None


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    """Encode an image with Pillow."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png(
    width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = bytes(100), extra: bytes = b""
) -> bytes:
    """A PNG with any values in its header; ``rows`` are the bytes to compress."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(width: int, height: int) -> bytes:
    """An uncompressed grey TIFF with this size in its header, but hardly any pixels."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 16}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + struct.pack("<H", len(tags)) + entries + bytes(4)


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG with another size in its header."""
    content = bytearray(encode(PICTURE, "JPEG"))
    struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, height, width)
    return bytes(content)


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A grey progressive JPEG with this number of scans, of which most are the same."""
    content = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    starts = [match.start() for match in re.finditer(rb"\xff\xda", content)]
    first, second = starts[1:3]
    # The tables before the next scan are repeated, too.
    return content[:second] + content[first:second] * (scans - len(starts)) + content[second:]


def gif_of_size(width: int, height: int) -> bytes:
    content = bytearray(encode(PICTURE, "GIF"))
    struct.pack_into("<HH", content, 6, width, height)
    return bytes(content)


def webp_of_size(width: int, height: int) -> bytes:
    """An animated WebP with a canvas of this size and one small frame."""
    frame = bytes(12) + struct.pack("<I", 100) + encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = [(b"VP8X", b"\x02\0\0\0" + size), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(part)) + part for kind, part in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def ycck_jpeg(pixels: np.ndarray) -> bytes:
    """A CMYK image as Photoshop writes it. Pillow inverts the four channels, and its Adobe marker says that three of
    them are not YCbCr, so the marker is changed afterwards."""
    cmy, black = np.dsplit(np.array(Image.fromarray(pixels).convert("CMYK")), [3])
    channels = np.dstack([255 - np.array(Image.fromarray(cmy).convert("YCbCr")), black])
    content = bytearray(encode(Image.frombytes("CMYK", (48, 32), channels.tobytes()), "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


def damaged(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def hostile_files() -> dict[str, HostileFile]:
    """All files by name; each call returns the same bytes."""
    readable = {**_jpegs(), **_pngs(), **_webps_gifs_and_bmps(), **_tiffs(), **_avifs(), **_heics(), **_netpbms()}
    rejected = {**_not_images(), **_truncated_files(), **_damaged_files(), **_bombs()}
    return readable | {name: HostileFile(content, reason=reason) for name, (content, reason) in rejected.items()}


def _jpegs() -> dict[str, HostileFile]:
    sharp = {"kind": "JPEG", "quality": 100, "subsampling": 0}
    jpeg = encode(PICTURE, **sharp)
    cmyk = Image.fromarray(PICTURE).convert("CMYK")
    turned = encode(np.rot90(PICTURE), **sharp, exif=oriented(6))
    bad_exif = jpeg[:2] + b"\xff\xe1\0\x10Exif\0\0MM\0*\xff\xff\xff\xff" + jpeg[2:]
    mpo = encode(PICTURE, "MPO", save_all=True, append_images=[Image.fromarray(OTHER)], quality=100, subsampling=0)
    return {
        "grey.jpg": HostileFile(encode(GREY, **sharp), GREY_RGB, 4),
        "进步的照片.JPG": HostileFile(encode(PICTURE, **sharp, progressive=True), PICTURE, 4),
        "печать cmyk.jpeg": HostileFile(encode(cmyk, "JPEG", quality=95), PICTURE, 12),
        "ycck.jpg": HostileFile(ycck_jpeg(PICTURE), PICTURE, 12),
        "صورة مقلوبة.jpg": HostileFile(turned, PICTURE, 4),
        "damaged exif.jpg": HostileFile(bad_exif, PICTURE, 4),
        "two pictures, from a phone.Jpg": HostileFile(mpo, PICTURE, 4),
        "trailing garbage.jpg": HostileFile(jpeg + b"garbage" * 99, PICTURE, 4),
        "really a jpeg.png": HostileFile(jpeg, PICTURE, 4),
    }


def _pngs() -> dict[str, HostileFile]:
    picture, other = Image.fromarray(PICTURE), Image.fromarray(OTHER)
    half = np.dstack([PICTURE, np.full((32, 48), 128, np.uint8)])
    over_white = fields((255, 127, 127), (127, 255, 127), (127, 127, 255), WHITE)
    rows = np.insert((PICTURE * np.uint16(257)).astype(">u2").reshape(32, -1).view(np.uint8), 0, 0, axis=1)
    no_red = fields(WHITE, GREEN, BLUE, WHITE)
    quantized = picture.quantize(4)
    profile = png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"no profile"))
    bomb = zlib.compress(bytes(20_000_000), 9)
    large = {
        "large profile.png": png_chunk(b"iCCP", b"icc\0\0" + bomb),
        "large text.png": png_chunk(b"zTXt", b"comment\0\0" + bomb),
        "large international text.png": png_chunk(b"iTXt", b"comment\0\1\0\0\0" + bomb),
        "large xmp.png": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        "long text.png": png_chunk(b"tEXt", b"comment\0" + b"text " * 1_000_000),
    }
    plain = np.insert(PICTURE.reshape(32, -1), 0, 0, axis=1).tobytes()
    return {name: HostileFile(png(48, 32, rows=plain, extra=extra), PICTURE) for name, extra in large.items()} | {
        "调色板.png": HostileFile(encode(quantized), PICTURE),
        "палитра с прозрачностью.png": HostileFile(
            encode(quantized, transparency=bytes(4)), np.full_like(PICTURE, 255)
        ),
        "🍕 alpha.PNG": HostileFile(encode(half), over_white, 1),
        "grey alpha.png": HostileFile(encode(np.dstack([GREY, np.full_like(GREY, 255)])), GREY_RGB),
        "transparent colour.png": HostileFile(encode(picture, transparency=RED), no_red),
        "16 bit grey.png": HostileFile(encode(GREY * np.uint16(257)), GREY_RGB),
        "16 bit rgb.png": HostileFile(png(48, 32, 16, rows=rows.tobytes()), PICTURE),
        "-rf.png": HostileFile(encode(GREY > 99), np.where(GREY_RGB > 99, 255, 0)),
        "damaged profile.png": HostileFile(png(48, 32, rows=plain, extra=profile), PICTURE),
        "קדימה.png": HostileFile(encode(np.rot90(PICTURE), exif=oriented(6)), PICTURE),
        "animated.png": HostileFile(encode(picture, save_all=True, append_images=[other]), PICTURE),
        "one pixel.png": HostileFile(encode(PICTURE[:1, :1]), PICTURE[:1, :1]),
        "cafe\u0301 100%, #1; 'long'.png": HostileFile(png(10_000, 1, rows=bytes(30_001)), np.zeros((1, 10_000, 3))),
        f"{'long ' * 40}.png": HostileFile(encode(PICTURE), PICTURE),
        "high.png": HostileFile(png(1, 10_000, rows=bytes(40_000)), np.zeros((10_000, 1, 3))),
    }


def _webps_gifs_and_bmps() -> dict[str, HostileFile]:
    picture, other = Image.fromarray(PICTURE), Image.fromarray(OTHER)
    clear = np.dstack([PICTURE, np.zeros((32, 48), np.uint8)])
    quantized = picture.quantize(4)
    return {
        "ภาพ.webp": HostileFile(encode(picture, "WEBP", lossless=True), PICTURE),
        "turned.WebP": HostileFile(encode(np.rot90(PICTURE), "WEBP", lossless=True, exif=oriented(6)), PICTURE),
        "clear.webp": HostileFile(encode(clear, "WEBP", lossless=True, exact=True), np.full_like(PICTURE, 255)),
        "animated.webp": HostileFile(
            encode(picture, "WEBP", lossless=True, save_all=True, append_images=[other]), PICTURE
        ),
        "इमेज.gif": HostileFile(encode(picture, "GIF"), PICTURE),
        "size of its frame.gif": HostileFile(gif_of_size(0, 0), PICTURE),
        "animated.GIF": HostileFile(encode(picture, "GIF", save_all=True, append_images=[other], duration=9), PICTURE),
        "clear.gif": HostileFile(
            encode(quantized, "GIF", transparency=quantized.getpixel((0, 0))), fields(WHITE, GREEN, BLUE, WHITE)
        ),
        "사진.bmp": HostileFile(encode(picture, "BMP"), PICTURE),
        "palette.BMP": HostileFile(encode(quantized, "BMP"), PICTURE),
    }


def _tiffs() -> dict[str, HostileFile]:
    picture, other = Image.fromarray(PICTURE), Image.fromarray(OTHER)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    in_lab = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
    del in_lab.info["icc_profile"]  # it contains the time
    return {
        "名前 🍣.TIFF": HostileFile(encode(picture, "TIFF"), PICTURE),
        "lzw.tif": HostileFile(encode(picture, "TIFF", compression="tiff_lzw"), PICTURE),
        "cmyk.tif": HostileFile(encode(picture.convert("CMYK"), "TIFF"), PICTURE),
        "lab.tif": HostileFile(encode(in_lab, "TIFF"), PICTURE, 24),
        "16 bit.tif": HostileFile(encode(GREY * np.uint16(257), "TIFF"), GREY_RGB),
        "fax.tif": HostileFile(encode(GREY > 99, "TIFF", compression="group4"), np.where(GREY_RGB > 99, 255, 0)),
        "two pages.tif": HostileFile(encode(picture, "TIFF", save_all=True, append_images=[other]), PICTURE),
        "γυρισμένη.tif": HostileFile(encode(np.rot90(PICTURE), "TIFF", exif=oriented(6)), PICTURE),
        "alpha.tif": HostileFile(encode(picture.convert("RGBA"), "TIFF"), PICTURE),
    }


def _avifs() -> dict[str, HostileFile]:
    Image.init()
    if "AVIF" not in Image.SAVE:  # Pillow before 11.3
        return {}
    options = {"kind": "AVIF", "quality": 100, "subsampling": "4:4:4"}
    return {
        "really an avif.jpg": HostileFile(encode(PICTURE, **options), PICTURE, 8),
        "turned avif.png": HostileFile(encode(np.rot90(PICTURE), **options, exif=oriented(6)), PICTURE, 8),
    }


def _heics() -> dict[str, HostileFile]:
    over_white = fields((255, 127, 127), (127, 255, 127), (127, 127, 255), WHITE)
    pictures = {"grey.heic": GREY_RGB, "alpha.heic": over_white, "noise.heic": NOISE}
    return {
        path.name: HostileFile(path.read_bytes(), pictures.get(path.name, PICTURE), 40 if "noise" in path.name else 4)
        for path in sorted(HEIC.iterdir())
    } | {"IMG_0001.JPG": HostileFile((HEIC / "plain.heic").read_bytes(), PICTURE, 4)}


def _netpbms() -> dict[str, HostileFile]:
    wide = (GREY * np.uint16(257)).astype(">u2").tobytes()
    plain = b"P3 # by hand\n2 1\n255\n255 0 0\n0 0 255\n"
    return {
        "colours.ppm": HostileFile(encode(PICTURE, "PPM"), PICTURE),
        "grey.pgm": HostileFile(encode(GREY, "PPM"), GREY_RGB),
        "16 bit.pgm": HostileFile(b"P5\n48 32\n65535\n" + wide, GREY_RGB),
        "bits.pbm": HostileFile(encode(GREY > 99, "PPM"), np.where(GREY_RGB > 99, 255, 0)),
        "numbers.ppm": HostileFile(plain, np.array([[RED, BLUE]])),
    }


def _not_images() -> dict[str, tuple[bytes, str]]:
    movable = b"\0\0\0\x18ftyp%s\0\0\0\0"
    return {
        "空的.jpg": (b"", "empty"),
        "notes.jpg": (b"Dear diary, no image at all", "not an image"),
        "zeros.png": (bytes(5000), "not an image"),
        "noise.gif": (b"\x17" + np.random.default_rng(1).bytes(5000), "not an image"),
        "404.jpg": (b"\n<!DOCTYPE html><html><title>404</title>", "is a web page.*not an image"),
        "pointer.jpg": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "Git LFS pointer.*git lfs pull",
        ),
        "archive.jpg": (b"PK\x03\x04\x14\0\0\0", "is a zip archive"),
        "scan.tif": (b"%PDF-1.7\n", "is a PDF document"),
        "clip.gif": (movable % b"isom", "is a video"),
        "only a head.heic": (movable % b"heic", "damaged, truncated or an unusual kind of HEIC"),
        "photo.jpg": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is not supported"),
        "old photo.jpg": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 is not supported"),
        "drawing.png": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG is not supported"),
        "layers.png": (b"8BPS\0\x01" + bytes(20), "PSD is not supported"),
        "canon.tif": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(20), "RAW file is not supported"),
        "nikon.tif": (encode(PICTURE, "TIFF", tiffinfo={254: 1}), "RAW file is not supported"),
        "adobe.tif": (encode(PICTURE, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "RAW file is not supported"),
        "heights.tif": (encode(GREY.astype(np.float32), "TIFF"), "32 bits"),
        "counts.tif": (encode(GREY.astype(np.int32), "TIFF"), "32 bits"),
    }


def _truncated_files() -> dict[str, tuple[bytes, str]]:
    kinds: dict[str, dict] = {
        "截断.jpg": {"kind": "JPEG"},
        "truncated, progressive.jpg": {"kind": "JPEG", "progressive": True},
        "обрезано.png": {"kind": "PNG"},
        "truncated.gif": {"kind": "GIF"},
        "truncated.webp": {"kind": "WEBP"},
        "truncated.bmp": {"kind": "BMP"},
        "truncated.ppm": {"kind": "PPM"},
        "truncated.tif": {"kind": "TIFF"},
        "truncated, lzw.tif": {"kind": "TIFF", "compression": "tiff_lzw"},
    }
    whole = {name: encode(NOISE, **options) for name, options in kinds.items()}
    halves = {name: (content[: len(content) // 2], "truncated") for name, content in whole.items()}
    ends = {
        "no end.jpg": (whole["截断.jpg"][:-2], "truncated"),
        "no end.png": (whole["обрезано.png"][:-12], "truncated"),
        "only a head.jpg": (b"\xff\xd8\xff\xe0", "truncated"),
        "truncated.heic": ((HEIC / "noise.heic").read_bytes()[:3000], "truncated"),
    }
    return halves | ends


def _damaged_files() -> dict[str, tuple[bytes, str]]:
    content = encode(NOISE)
    return {
        "damaged pixels.png": (damaged(content, len(content) // 2), "damaged"),
        "damaged header.png": (damaged(content, 20), "damaged"),
        "damaged checksum.png": (damaged(content, len(content) - 13), "damaged"),
        "damaged lzw.tif": (damaged(encode(NOISE, "TIFF", compression="tiff_lzw"), 30), "damaged"),
        "no width.png": (png(0, 8), "damaged|is 0"),
        "no height.jpg": (jpeg_of_size(48, 0), "damaged|is 0"),
    }


def _bombs() -> dict[str, tuple[bytes, str]]:
    bmp = b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    bombs = {
        "炸弹.png": png(60_000, 60_000),
        "bomb.jpg": jpeg_of_size(65_500, 65_500),
        "bomb.gif": gif_of_size(65_535, 65_535),
        "bomb.webp": webp_of_size(16_384, 16_384),
        "bomb.bmp": bmp + bytes(100),
        "bomb.tif": tiff(60_000, 60_000),
        "bomb.ppm": b"P6 60000 60000 255\n",
    }
    return {name: (content, "more than 178,956,970 pixels") for name, content in bombs.items()}
