"""Requests to the API server; what they write is tested against a real one."""

from kubernetes.aio import client

from driftloop.controller.runtime.kube.api import Api


async def test_a_request_looks_up_no_netrc_and_no_proxy() -> None:
    """In the client's own session it does, in two threads each time."""
    api = Api(client.Configuration(host="http://127.0.0.1:1"))
    session = api._client.rest_client._create_pool_manager()
    try:
        assert not session.trust_env
    finally:
        await session.close()
        await api.close()
