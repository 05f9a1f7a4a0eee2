"""Where the bytes of files are kept: a directory, or S3-compatible object storage; and the one door to them."""

from __future__ import annotations

from producer.storage.local import LocalStorage
from producer.storage.port import ObjectMissing, Storage, StoredObject
from shared.settings import Settings

__all__ = ["ObjectMissing", "Storage", "StoredObject", "open_storage"]


def open_storage(settings: Settings) -> Storage:
    """What the settings ask for; the library behind S3 is imported when asked for. Raises SettingsError."""
    if settings.files_url is None:
        return LocalStorage(settings.files_dir or settings.data_dir / "files")
    from producer.storage.s3 import S3Storage

    return S3Storage(settings.files_url, settings.files_endpoint)
