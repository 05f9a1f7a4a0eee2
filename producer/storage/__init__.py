"""Stores the bytes of files in a directory or in S3-compatible object storage."""

from __future__ import annotations

from producer.storage.local import LocalStorage, require_usable
from producer.storage.port import ObjectMissing, Storage, StoredObject
from shared.settings import Settings, SettingsError

__all__ = ["ObjectMissing", "Storage", "StoredObject", "open_storage"]


def open_storage(settings: Settings) -> Storage:
    """Opens the configured storage; imports the S3 library only for S3. Raises SettingsError."""
    if settings.files_url is None:
        directory = settings.files_dir or settings.data_dir / "files"
        try:
            require_usable(directory, make=settings.files_dir is not None)
        except OSError as error:
            raise SettingsError(
                f"The directory of files {directory} (files_dir) cannot be used: {error.strerror}."
            ) from None
        return LocalStorage(directory)
    from producer.storage.s3 import S3Storage

    return S3Storage(settings.files_url, settings.files_endpoint)
