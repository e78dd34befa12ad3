"""Both transports, as in tests/system."""

import pytest


@pytest.fixture(scope="module", params=["h2", "grpcio"], autouse=True)
def transport(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVEYOR_TRANSPORT", request.param)
        yield request.param
