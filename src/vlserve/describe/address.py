"""How a server is named on the command line: HOST:PORT, or that as a URL."""

from vlserve.describe.errors import DescribeError


def grpc_address(server: str) -> str:
    """`host:port` out of HOST:PORT or grpc://HOST:PORT. Raises DescribeError for another URL."""
    scheme, _, rest = server.rpartition("://")
    if scheme not in ("", "grpc"):
        raise DescribeError(
            f"--server {server}: this command asks over gRPC: name that door, as HOST:PORT or "
            "grpc://HOST:PORT (port 50051 where grpc.port is not set)"
        )
    return rest.rstrip("/")


def http_url(server: str) -> str:
    """A URL without /v1 out of HOST:PORT or http(s)://HOST:PORT. Raises DescribeError for another
    URL."""
    url = server if "://" in server else f"http://{server}"
    if not url.startswith(("http://", "https://")):
        raise DescribeError(
            f"--server {server}: this command asks over HTTP: name that door, as HOST:PORT or "
            "http://HOST:PORT (port 8000 where http.port is not set)"
        )
    return url.rstrip("/").removesuffix("/v1")
