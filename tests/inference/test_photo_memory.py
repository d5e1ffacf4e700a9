"""Reading photos for predict: how many are decoded at a time, and the memory that they take."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from timm_landmark.inference import photos as photos_module
from timm_landmark.inference.photos import Photo, read_photos, squashed

MEMORY = """
import sys, timm, timm_landmark
from pathlib import Path
from timm_landmark.inference.photos import find_photos
from timm_landmark.inference.answers import Label
from timm_landmark.inference.namer import Namer, name_photos

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

transform = timm.data.create_transform((3, 64, 64), is_training=False)
model = timm.create_model("test_resnet", num_classes=2).eval()
namer = Namer(model, (Label("0", "a"), Label("1", "b")), transform, "RGB", 256, "model")
photos = find_photos([Path(sys.argv[1])])
peaks = []
for some in (photos[:4], photos):
    assert len(list(name_photos(namer, some, batch_size=32, workers=2, thumbnails=True))) == len(some)
    peaks.append(peak())
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_depend_on_the_size_of_square_photos(tmp_path):
    """Forty of 12 MB each, decoded two at a time; once, all of them were kept until their batch was complete."""
    Image.new("RGB", (2000, 2000), "teal").save(tmp_path / "0.jpg")
    for number in range(1, 40):
        (tmp_path / f"{number}.jpg").hardlink_to(tmp_path / "0.jpg")
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60_000, "kB beyond the peak over four photos"


def test_memory_is_bounded_and_order_kept(monkeypatch, tmp_path):
    """However slowly the answers are consumed, no more than the look-ahead is decoded."""
    lock, decoded = threading.Lock(), []

    def slow(path, transform, thumbnail):
        time.sleep(0.002 if int(path.name) % 3 else 0.01)
        with lock:
            decoded.append(path)
        return Photo(path)

    monkeypatch.setattr(photos_module, "read_photo", slow)
    paths = [tmp_path / str(number) for number in range(60)]
    taken = []
    for photo in read_photos(paths, squashed, 0, workers=4, ahead=8):
        taken.append(photo.path)
        time.sleep(0.003)
        assert len(decoded) - len(taken) <= 8
    assert taken == paths
