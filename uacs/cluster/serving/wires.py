"""A replica's port for Serve's gRPC: closed, unless Serve uses it."""

from ray.serve._private import constants, replica


def close_grpc() -> None:
    """Keep this replica from listening for other replicas' calls by gRPC, unless that is how Serve makes them.

    Serve (2.60) has each replica listen on every address, whichever way calls are made, and unpickles what comes with
    Ray's token, or from anybody where Ray has none: whoever gets past that runs anything here. To be called by a
    deployment's constructor, since Serve opens the port after that.
    """
    if not (constants.RAY_SERVE_USE_GRPC_BY_DEFAULT or constants.RAY_SERVE_PROXY_USE_GRPC):
        # what Serve's module calls: it has no setting for this. A Serve that does not is one to look at anew
        assert replica.add_port_to_grpc_server
        replica.add_port_to_grpc_server = _nowhere


def _nowhere(server, address: str) -> int:
    """In the place of Ray's function, which binds a server to an address and returns its port."""
    return 0
