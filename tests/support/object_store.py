"""An object store on this machine: the server of moto, whose clients find it by the environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

BUCKET = "archive"


@contextmanager
def s3_serving() -> Iterator[dict[str, str]]:
    """The environment of its clients. There is a bucket, which is empty."""
    if not (find_spec("moto") and find_spec("s3fs")):
        pytest.skip("the server of moto is not installed, or s3fs: pip install 'moto[server]' s3fs")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        url = f"http://127.0.0.1:{port}"
        who = {"aws_access_key_id": "a-test", "aws_secret_access_key": "a-secret"}
        boto3.client("s3", endpoint_url=url, region_name="us-east-1", **who).create_bucket(
            Bucket=BUCKET
        )
        names = {name.upper(): value for name, value in who.items()}
        yield {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1", **names}
    finally:
        server.stop()
