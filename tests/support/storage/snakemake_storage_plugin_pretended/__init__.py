"""A storage of Snakemake's in which nothing lies yet: enough for a dry run, without a package more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from snakemake_interface_storage_plugins.storage_object import StorageObjectRead, StorageObjectWrite
from snakemake_interface_storage_plugins.storage_provider import (
    ExampleQuery,
    Operation,
    StorageProviderBase,
    StorageQueryValidationResult,
)


class StorageProvider(StorageProviderBase):
    """The provider, whose queries are any."""

    @classmethod
    def example_queries(cls) -> list[ExampleQuery]:
        return []

    @classmethod
    def is_valid_query(cls, query: str) -> StorageQueryValidationResult:
        return StorageQueryValidationResult(query, valid=True)

    def rate_limiter_key(self, query: str, operation: Operation) -> Any:
        return None

    def default_max_requests_per_second(self) -> float:
        return 1.0

    def use_rate_limiter(self) -> bool:
        return False

    def list_objects(self, query: Any) -> Iterable[str]:
        return []


class StorageObject(StorageObjectRead, StorageObjectWrite):
    """A file that is not there."""

    async def inventory(self, cache: Any) -> None:
        cache.exists_in_storage[self.cache_key()] = False

    def get_inventory_parent(self) -> str | None:
        return None

    def local_suffix(self) -> str:
        return self.query

    def cleanup(self) -> None:
        pass

    def exists(self) -> bool:
        return False

    def mtime(self) -> float:
        raise NotImplementedError

    def size(self) -> int:
        raise NotImplementedError

    def retrieve_object(self) -> None:
        raise NotImplementedError

    def store_object(self) -> None:
        raise NotImplementedError

    def remove(self) -> None:
        raise NotImplementedError
