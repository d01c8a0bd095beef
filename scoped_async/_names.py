"""The table of names: which the proxy has of an AsyncSession, how each is delegated, and which it refuses."""

import sqlalchemy

from ._proxy import Kind, Name

_2_1 = (2, 1)

NAMES: dict[str, Name] = {
    "aclose": Name(Kind.ENDING),
    "add": Name(Kind.METHOD),
    "add_all": Name(Kind.METHOD),
    "autoflush": Name(Kind.WRITABLE),
    "begin": Name(Kind.TRANSACTION),
    "begin_nested": Name(Kind.TRANSACTION),
    "bind": Name(Kind.WRITABLE),
    "binds": Name(Kind.ATTRIBUTE, _2_1),
    "close": Name(Kind.ENDING),
    "commit": Name(Kind.ENDING),
    "connection": Name(Kind.DRIVER),
    "delete": Name(Kind.OPERATION),
    "delete_all": Name(Kind.OPERATION, _2_1),
    "deleted": Name(Kind.ATTRIBUTE),
    "dirty": Name(Kind.ATTRIBUTE),
    "execute": Name(Kind.OPERATION),
    "execution_options": Name(Kind.WRITABLE, _2_1),
    "expire": Name(Kind.METHOD),
    "expire_all": Name(Kind.METHOD),
    "expunge": Name(Kind.METHOD),
    "expunge_all": Name(Kind.METHOD),
    "flush": Name(Kind.OPERATION),
    "get": Name(Kind.OPERATION),
    "get_async_bind": Name(Kind.METHOD, _2_1),
    "get_bind": Name(Kind.METHOD),
    "get_nested_transaction": Name(Kind.METHOD),
    "get_one": Name(Kind.OPERATION),
    "get_transaction": Name(Kind.METHOD),
    "identity_map": Name(Kind.WRITABLE),
    "in_nested_transaction": Name(Kind.METHOD),
    "in_transaction": Name(Kind.METHOD),
    "info": Name(Kind.ATTRIBUTE),
    "invalidate": Name(Kind.ENDING),
    "is_active": Name(Kind.ATTRIBUTE),
    "is_modified": Name(Kind.METHOD),
    "merge": Name(Kind.OPERATION),
    "merge_all": Name(Kind.OPERATION, _2_1),
    "new": Name(Kind.ATTRIBUTE),
    "no_autoflush": Name(Kind.ATTRIBUTE),
    "refresh": Name(Kind.OPERATION),
    "reset": Name(Kind.ENDING),
    "rollback": Name(Kind.ENDING),
    "run_sync": Name(Kind.DRIVER),
    "scalar": Name(Kind.OPERATION),
    "scalars": Name(Kind.OPERATION),
    "stream": Name(Kind.STREAM),
    "stream_scalars": Name(Kind.STREAM),
}
"""What `async_scoped_session` documents as proxied, and what `AsyncSession` documents and it forgot."""

REFUSED: dict[str, str] = {
    "sync_session": "what is done on it is outside the guard",
    "sync_session_class": "it says how sessions are made, which is the factory's to say",
    "dispatch": "listen to the events of `Session().sync_session`, or of the factory's sync_session_class",
    "bind_mapper": "the binds are the factory's to say: configure(binds=...)",
    "bind_table": "the binds are the factory's to say: configure(binds=...)",
}


_INSTALLED = tuple(int(part) for part in sqlalchemy.__version__.split(".")[:2])
TOO_NEW = {
    name: "it came with SQLAlchemy {}.{}".format(*line.since)
    for name, line in NAMES.items()
    if line.since > _INSTALLED
}
AVAILABLE = {name: line for name, line in NAMES.items() if name not in TOO_NEW}
