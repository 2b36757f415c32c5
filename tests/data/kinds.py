"""Image files of many kinds; the names of those that no index is to accept begin with `no_`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 90, 76


def write_kinds(folder: Path) -> list[str]:
    """Writes the same smooth image in every kind, and returns the files' names."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    rgb = coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grey, palette, cmyk = rgb.convert("L"), rgb.quantize(16), rgb.convert("CMYK")
    rgba = Image.fromarray(np.dstack([np.asarray(rgb), np.asarray(grey)]))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6

    kinds = {
        "rgb.jpg": (rgb, {}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "not_subsampled.jpg": (rgb, {"subsampling": 0}),
        "grey.jpg": (grey, {}),
        "cmyk.jpg": (cmyk, {}),
        "turned.jpg": (rgb, {"exif": turned}),
        "telephone.jpg": (rgb, {"format": "MPO", "save_all": True, "append_images": [rgb]}),
        "png_by_another_name.jpg": (rgb, {"format": "PNG"}),
        "rgb.png": (rgb, {}),
        "grey.png": (grey, {}),
        "black_and_white.png": (grey.convert("1"), {}),
        "palette.png": (palette, {}),
        "palette_of_4_bits.png": (palette, {"bits": 4, "transparency": 3}),
        "transparent.png": (rgba, {}),
        "grey_transparent.png": (rgba.convert("LA"), {}),
        "rgb.webp": (rgb, {}),
        "lossless_transparent.webp": (rgba, {"lossless": True, "exact": True}),
        "moving.webp": (rgb, {"save_all": True, "append_images": [rgb.rotate(180)]}),
        "rgb.bmp": (rgb, {}),
        "palette.bmp": (palette, {}),
        "transparent.bmp": (rgba, {}),
        "rgb.ppm": (rgb, {}),
        "grey.pgm": (grey, {}),
        "rgb.tif": (rgb, {}),
        "grey.tif": (grey, {}),
        "transparent.tif": (rgba, {}),
        "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "deflate.tif": (rgb, {"compression": "tiff_adobe_deflate"}),
        "packbits.tif": (rgb, {"compression": "packbits"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "no_gif.jpg": (rgb, {"format": "GIF"}),
        "no_avif.jpg": (rgb, {"format": "AVIF"}),
        "no_jpeg2000.jpg": (rgb, {"format": "JPEG2000"}),
        "no_targa.bmp": (rgb, {"format": "TGA"}),
        "no_deep.png": (deep, {}),
        "no_deep.pgm": (deep, {}),
        "no_deep.tif": (deep, {}),
        "no_float.tif": (Image.fromarray(np.asarray(grey).astype(np.float32) / 255), {}),
        "no_black_and_white.tif": (grey.convert("1"), {}),
        "no_turned.tif": (rgb, {"tiffinfo": {274: 6}}),
        "no_upside_down.tif": (rgb, {"tiffinfo": {274: 3}}),
        "no_palette.tif": (palette, {}),
        "no_cmyk.tif": (cmyk, {}),
        "no_grey_transparent.tif": (rgba.convert("LA"), {}),
        "no_lzma.tif": (rgb, {"compression": "lzma"}),
    }
    for name, (image, options) in kinds.items():
        image.save(folder / name, **options)
    values = np.asarray(rgb).ravel()
    (folder / "no_text.ppm").write_text(f"P3\n{WIDTH} {HEIGHT}\n255\n{' '.join(map(str, values))}\n")
    (folder / "no_other_maximum.ppm").write_bytes(f"P6\n{WIDTH} {HEIGHT}\n100\n".encode() + (values // 3).tobytes())
    return [*kinds, "no_text.ppm", "no_other_maximum.ppm"]
