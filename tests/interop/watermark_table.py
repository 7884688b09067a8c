"""What the invisible mark survives, beside the Python package invisible-watermark on the same pictures.

    pip install -r requirements-watermark.txt
    npm pack @lobehub/fluent-emoji-3d@1.1.0
    apt-get download mate-backgrounds && dpkg-deb -x mate-backgrounds*.deb mate
    cargo build --release --example watermark
    python watermark_table.py --tool ../../target/release/examples/watermark --emoji lobehub-fluent-emoji-3d-1.1.0.tgz \
        --photographs mate/usr/share/backgrounds/mate/nature

Pictures: 3D emoji of the npm package (MIT) on white, black, even and graded grounds, and crops of the twelve nature
photographs of Debian's mate-backgrounds 1.26.0 (GPL-2+ and CC-BY-SA). The mark was tuned on neither: `--tuning` takes the
pictures that it was tuned on, other emoji and crops of the photographs that scikit-image and scikit-learn carry. Every
attack is applied to the same pictures for all three; the payload is 48 bits for all three. invisible-watermark has no
detector: it counts as detected when at least 41 of the 48 bits are right, which chance reaches with 3e-7. It refuses
pictures below 256 x 256; so resized pictures are resized back for it.
"""

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

PAYLOAD = b"unclip"
BITS = np.unpackbits(np.frombuffer(PAYLOAD, np.uint8))


def photographs(args):
    if not args.tuning:
        for path in sorted(args.photographs.glob("*.jpg")):
            yield path.stem, Image.open(path).convert("RGB")
        return
    import skimage.data
    from sklearn.datasets import load_sample_images

    names = ["astronaut", "coffee", "chelsea", "rocket", "camera", "brick", "grass", "gravel", "coins", "page", "moon",
             "immunohistochemistry", "hubble_deep_field", "retina"]
    for name in names:
        try:
            array = getattr(skimage.data, name)()
        except Exception as error:  # not in the package, and there is no network
            print(f"without {name}: {type(error).__name__}")
            continue
        yield name, Image.fromarray(np.asarray(array)).convert("RGB")
    for name, array in zip(["china", "flower"], load_sample_images().images):
        yield name, Image.fromarray(array)


def emoji(path):
    with tarfile.open(path) as tar:
        members = sorted((m for m in tar if m.name.endswith(".webp")), key=lambda m: m.name)
        order = np.random.default_rng(1).permutation(len(members))
        for k in order:
            picture = Image.open(io.BytesIO(tar.extractfile(members[k]).read()))
            yield picture.convert("RGBA")


def grounded(picture, side, rng):
    kind = rng.integers(4)
    if kind == 0:
        ground = np.full((side, side, 3), 255)
    elif kind == 1:
        ground = np.full((side, side, 3), rng.integers(0, 256, 3))
    elif kind == 2:
        a, b = rng.integers(0, 256, (2, 3))
        ground = a + (b - a) * np.linspace(0, 1, side)[:, None, None] * np.ones((1, side, 1))
    else:
        ground = np.zeros((side, side, 3))
    ground = Image.fromarray(ground.astype(np.uint8)).convert("RGBA")
    ground.alpha_composite(picture.resize((side, side), Image.Resampling.LANCZOS))
    return ground.convert("RGB")


def make_pictures(args, side, count, seed):
    rng = np.random.default_rng(seed)
    photos = list(photographs(args))
    icons = emoji(args.emoji)
    # The mark was tuned on the emoji from number 1000 of the shuffled ones on.
    for _ in range(1000 if args.tuning else 150 * (seed - 1)):
        next(icons)
    for k in range(count):
        if k % 2:
            name, photo = photos[k // 2 % len(photos)]
            # From the photograph's own pixels to a fifth of their number across.
            crop = min(int(rng.uniform(0.9, 1.8 if args.tuning else 5) * 256) * side // 256, *photo.size)
            x, y = (int(rng.integers(0, whole - crop + 1)) for whole in photo.size)
            picture = photo.crop((x, y, x + crop, y + crop)).resize((side, side), Image.Resampling.LANCZOS)
            yield f"{k:04}-{name}", picture
        else:
            yield f"{k:04}-emoji", grounded(next(icons), side, rng)


def recoded(picture, **options):
    with io.BytesIO() as buffer:
        picture.save(buffer, **options)
        return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def resized(picture, factor):
    return picture.resize([round(side * factor) for side in picture.size], Image.Resampling.BICUBIC)


def cropped(picture, area, rng):
    width, height = (int(side * area**0.5) for side in picture.size)
    x, y = (int(rng.integers(0, a - b + 1)) for a, b in zip(picture.size, (width, height)))
    return picture.crop((x, y, x + width, y + height))


def noisy(picture, deviation, rng):
    array = np.asarray(picture, np.float64) + rng.normal(0, deviation, (*picture.size[::-1], 3))
    return Image.fromarray(array.round().clip(0, 255).astype(np.uint8))


ATTACKS = {
    "none (PNG)": lambda p, r: p,
    "JPEG 90": lambda p, r: recoded(p, format="JPEG", quality=90),
    "JPEG 75": lambda p, r: recoded(p, format="JPEG", quality=75),
    "JPEG 50": lambda p, r: recoded(p, format="JPEG", quality=50),
    "WebP 80": lambda p, r: recoded(p, format="WEBP", quality=80),
    "WebP 50": lambda p, r: recoded(p, format="WEBP", quality=50),
    "resize 50 %": lambda p, r: resized(p, 0.5),
    "resize 75 %": lambda p, r: resized(p, 0.75),
    "resize 87 %": lambda p, r: resized(p, 0.87),
    "resize 130 %": lambda p, r: resized(p, 1.3),
    "resize 200 %": lambda p, r: resized(p, 2.0),
    "crop to 75 % of the area": lambda p, r: cropped(p, 0.75, r),
    "crop to 50 % of the area": lambda p, r: cropped(p, 0.5, r),
    "brightness × 0.7": lambda p, r: ImageEnhance.Brightness(p).enhance(0.7),
    "brightness × 1.3": lambda p, r: ImageEnhance.Brightness(p).enhance(1.3),
    "contrast × 0.7": lambda p, r: ImageEnhance.Contrast(p).enhance(0.7),
    "contrast × 1.3": lambda p, r: ImageEnhance.Contrast(p).enhance(1.3),
    "noise, deviation 5": lambda p, r: noisy(p, 5, r),
    "noise, deviation 10": lambda p, r: noisy(p, 10, r),
    "blur, radius 1": lambda p, r: p.filter(ImageFilter.GaussianBlur(1)),
    "resize 75 %, then JPEG 75": lambda p, r: recoded(resized(p, 0.75), format="JPEG", quality=75),
    "crop to 50 %, then JPEG 75": lambda p, r: recoded(cropped(p, 0.5, r), format="JPEG", quality=75),
}


def ours(tool, folder):
    def part(paths):
        if not paths:
            return []
        output = subprocess.run([tool, "detect", "--json", *paths], check=True, capture_output=True, text=True).stdout
        return [json.loads(line) for line in output.splitlines()]

    paths = sorted(folder.glob("*.png"))
    with ThreadPoolExecutor(2) as pool:
        rows = [row for part in pool.map(part, [paths[0::2], paths[1::2]]) for row in part]
    bits = [right_bits(bytes.fromhex(row["payload"])) if row["payload"] else 24 for row in rows]
    found = [row["says"] == "found" for row in rows]
    return bits, found, rows


def right_bits(payload):
    return int((np.unpackbits(np.frombuffer(payload, np.uint8)) == BITS).sum())


def theirs(method, pictures, side):
    from imwatermark import WatermarkDecoder

    bits = []
    for picture, attack in pictures:
        if "resize" in attack:
            picture = picture.resize((side, side), Image.Resampling.BICUBIC)
        try:
            decoder = WatermarkDecoder("bits", 48)
            read = decoder.decode(np.asarray(picture)[:, :, ::-1].copy(), method)
            bits.append(int((np.asarray(read).astype(int) == BITS).sum()))
        except RuntimeError:
            bits.append(24)  # refused: no better than chance
    return bits, [right >= 41 for right in bits]


def psnr(a, b):
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return 10 * np.log10(255**2 / error) if error else np.inf


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool", required=True)
    parser.add_argument("--emoji", required=True)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--tuning", action="store_true")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--unmarked", type=int, default=1000)
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS))
    args = parser.parse_args()

    work = Path(tempfile.mkdtemp(prefix="watermark-"))
    originals = list(make_pictures(args, args.side, args.count, 1))
    (work / "plain").mkdir()
    for name, picture in originals:
        picture.save(work / "plain" / f"{name}.png")
    subprocess.run([args.tool, "embed", work / "plain", work / "marked", "--payload", PAYLOAD.decode()], check=True)
    marked = {"ours": [(name, Image.open(work / "marked" / f"{name}.png").convert("RGB")) for name, _ in originals]}
    if not args.only_ours:
        from imwatermark import WatermarkEncoder

        for method in ["dwtDct", "dwtDctSvd"]:
            encoder = WatermarkEncoder()
            encoder.set_watermark("bits", BITS.tolist())
            marked[method] = [
                (name, Image.fromarray(encoder.encode(np.asarray(picture)[:, :, ::-1].copy(), method)[:, :, ::-1]))
                for name, picture in originals
            ]
    for method, pictures in marked.items():
        values = [psnr(a, b) for (_, a), (_, b) in zip(originals, pictures)]
        print(f"{method}: PSNR mean {np.mean(values):.1f} dB, least {np.min(values):.1f} dB")

    print(f"\n| attack, {args.count} pictures of {args.side} × {args.side} | " + " | ".join(f"{m}: bits, detected" for m in marked) + " |")
    print("|---|" + "---|" * len(marked))
    for attack in args.attacks:
        cells = []
        for method, pictures in marked.items():
            rng = np.random.default_rng(7)
            attacked = [(name, ATTACKS[attack](picture, rng)) for name, picture in pictures]
            if method == "ours":
                folder = work / "attacked" / attack.replace("/", "-")
                folder.mkdir(parents=True)
                for name, picture in attacked:
                    picture.save(folder / f"{name}.png", compress_level=1)
                bits, found, rows = ours(args.tool, folder)
                lost = [Path(row["file"]).stem for row in rows if row["says"] != "found"]
                if lost:
                    print("    lost:", attack, lost)
                wrong = [row for row in rows if row["says"] == "found" and bytes.fromhex(row["payload"]) != PAYLOAD]
                if wrong:
                    print("    found with wrong bits:", attack, wrong)
            else:
                bits, found = theirs(method, [(picture, attack) for _, picture in attacked], args.side)
            cells.append(f"{100 * np.mean(bits) / 48:.1f} %, {100 * np.mean(found):.0f} %")
        print(f"| {attack} | " + " | ".join(cells) + " |", flush=True)

    if args.unmarked:
        folder = work / "unmarked"
        folder.mkdir()
        pictures = list(make_pictures(args, args.side, args.unmarked, 2))
        for name, picture in pictures:
            picture.save(folder / f"{name}.png", compress_level=1)
        output = subprocess.run([args.tool, "detect", folder], check=True, capture_output=True, text=True).stdout.splitlines()
        neither = [sum(says in line for line in output) for says in ("no mark found", "cannot say")]
        cells = [f"{len(output) - sum(neither)} of {len(output)} (of {neither[1]} it cannot say)"]
        for method in list(marked)[1:]:
            cells.append(f"{sum(theirs(method, [(p, '') for _, p in pictures], args.side)[1])} of {len(pictures)}")
        print("| unmarked pictures taken for marked | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
