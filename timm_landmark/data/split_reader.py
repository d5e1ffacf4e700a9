"""Reads every image of a split once, in the same order from folders and from shards."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import Image

from timm_landmark.data.address import Place
from timm_landmark.data.check import read_sums, stored_name
from timm_landmark.data.layout import ClassRow, ManifestRow, read_dataset_info, read_rows
from timm_landmark.data.shards import INFO, in_shards, read_samples, read_shard_info, sample_key, stored_order
from timm_landmark.utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


class SplitReader:
    """A reader for timm's ``IterableImageDataset`` that yields each image with its index in ``rows``.

    The same data set gives the same batches, from folders or shards and with any number of loading processes: images
    come in the order of the shards, and each process reads a range of whole batches.

    Args:
        data: A prepared data set.
        split: ``train``, ``validation`` or ``test``.
        batch_size: Batch size of the loader.
        mode: Pillow mode of the images.

    Attributes:
        rows: The split's rows of manifest.csv, in the order of the images.

    Raises:
        UserError: If a table cannot be read, or the shards have another number of images.
    """

    def __init__(self, data: Place, split: str, batch_size: int, mode: str = "RGB") -> None:
        self.data, self.split, self.mode = data, split, mode
        rows = [row for row in read_rows(data, ManifestRow) if row.split == split]
        self.rows = stored_order(rows, read_dataset_info(data).get("seed", 0))
        if not rows:
            raise UserError(f"{data}: manifest.csv has no images in {split}; prepare the data set again")
        self._batch_size = batch_size
        self._shards: dict[str, int] = {}
        if not in_shards(data):
            return
        self._shards, self._sums = read_shard_info(data)[split], read_sums(data)
        self._folders = [row.folder for row in read_rows(data, ClassRow)]
        if (count := sum(self._shards.values())) != len(rows):
            raise UserError(
                f"{data}: {INFO} lists {count} images in {split}, manifest.csv {len(rows)}; prepare the data set again"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> "Iterator[tuple[Picture, int]]":
        start, stop = self._share()
        for number, content, name in self._from_shards(start, stop) if self._shards else self._from_files(start, stop):
            try:
                with Image.open(io.BytesIO(content)) as image:
                    picture = image.convert(self.mode)
            except OSError as error:
                raise UserError(f"{name} cannot be read ({error}); prepare the data set again") from None
            yield picture, number

    def _share(self) -> tuple[int, int]:
        """First and last + 1 image of this loading process."""
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        index, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        batches = -(-len(self.rows) // self._batch_size)
        start, stop = batches * index // workers, batches * (index + 1) // workers
        return start * self._batch_size, stop * self._batch_size

    def _from_files(self, start: int, stop: int) -> Iterator[tuple[int, bytes, str]]:
        for number, row in enumerate(self.rows[start:stop], start):
            path = self.data / stored_name(row)
            try:
                yield number, path.read_bytes(), str(path)
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}); prepare the data set again") from None

    def _from_shards(self, start: int, stop: int) -> Iterator[tuple[int, bytes, str]]:
        numbers = {sample_key(row.image_id): number for number, row in enumerate(self.rows)}
        first = 0
        for name, images in self._shards.items():
            if first < stop and first + images > start:
                samples = read_samples(self.data, name, images, self._sums)
                for place, (key, (index, content)) in enumerate(samples.items(), first):
                    number = numbers.get(key)
                    if number is None or self._folders[index : index + 1] != [self.rows[number].folder]:
                        raise UserError(
                            f"{self.data / name}: image {key} with class index {index} does not match manifest.csv "
                            f"for {self.split}; prepare the data set again"
                        )
                    if start <= place < stop:
                        yield number, content, f"{self.data / name}: {key}.jpg"
            first += images
