"""Every test of a real server runs on both transports: they must not differ in what a client sees."""

import pytest


@pytest.fixture(scope="module", params=["h2", "grpcio"], autouse=True)
def transport(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVEYOR_TRANSPORT", request.param)
        yield request.param
