"""A proxy on loopback that stands before any server and spoils chosen replies, as the network and its servers do.

    with FaultProxy(upstream) as proxy:            # upstream such as 'http://127.0.0.1:8123'
        proxy.spoil(lambda request: "_skip=200" in request.path, Status(503), times=2)
        ...                                        # talk to proxy.url instead of upstream
        assert proxy.seen[3].path == "/materials/summary/?..."

Absolute links to the upstream in replies (OPTIMADE's links.next) are rewritten to the proxy.
"""
