"""Output files of commands: whole, or not there."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tracer.errors import OutputError
from tracer.files import create_beside, put_in_place

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@contextmanager
def created(path: Path, force: bool) -> Iterator[BinaryIO]:
    """A new file for writing, put in its place when it is whole; what `force` replaces is there until then.

    Where anything fails or interrupts before the end, nothing is left of it.

    Raises:
        OutputError: it exists (without `force`), or can't be created or written. Other errors of the body are passed on.
    """
    fd, beside = create_beside(path, force)
    try:
        file = _File(fd, "wb")
        try:
            with io.BufferedWriter(file) as stream:
                yield stream
        except OSError as error:
            if error is not file.failure:
                raise
            raise OutputError(f"{path} can't be written: {error.strerror}; it was removed again") from error
        put_in_place(beside, path, force)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


class _File(io.FileIO):
    """Knows which failure is its own."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        with self._noted():
            return super().write(data)

    def close(self) -> None:
        with self._noted():
            super().close()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise
