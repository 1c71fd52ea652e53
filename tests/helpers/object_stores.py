"""A real S3 server on loopback."""

from moto.core.model_instances import reset_model_data
from moto.server import ThreadedMotoServer

SECRET = "the-secret-of-the-store"
BUCKET = "bucket"


class ObjectServer:
    """Serves S3 on a port of the system's choice; what it holds stays while it is stopped."""

    def __init__(self) -> None:
        reset_model_data()
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.port: int = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        """Refuse connections."""
        self._server.stop()

    def start_again(self) -> None:
        """On the same port."""
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    @property
    def environment(self) -> dict[str, str]:
        """What leads clients here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
