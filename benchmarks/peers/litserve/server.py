"""LitServe as its pages teach it: three APIs in one server, two workers each, pictures as a form, tensors as JSON."""

# mypy: ignore-errors

import engine
import litserve
import numpy as np

WORKERS = 2


class Picture(litserve.LitAPI):
    def setup(self, device) -> None:
        self.network = engine.image_network()

    def decode_request(self, request) -> np.ndarray:
        return engine.prepare(request["file"].file.read())

    def predict(self, tensor: np.ndarray) -> np.ndarray:
        return self.network(tensor)

    def encode_response(self, row: np.ndarray) -> dict:
        return engine.best(row)


class Tensor(litserve.LitAPI):
    def setup(self, device) -> None:
        self.network = self.make()

    def decode_request(self, request) -> np.ndarray:
        return np.array(request["inputs"][0]["data"], np.float32).reshape(self.network.shape)

    def predict(self, tensor: np.ndarray) -> np.ndarray:
        return self.network(tensor)

    def encode_response(self, row: np.ndarray) -> dict:
        output = {"name": "probabilities", "shape": [1, row.size], "datatype": "FP32", "data": row.tolist()}
        return {"outputs": [output]}


class ImageTensor(Tensor):
    def make(self) -> engine.Network:
        return engine.image_network()


class Tiny(Tensor):
    def make(self) -> engine.Network:
        return engine.tiny_network()


if __name__ == "__main__":
    apis = [Picture(api_path="/upload"), ImageTensor(api_path="/infer")]
    if engine.os.environ.get("TINY_MODEL"):
        apis.append(Tiny(api_path="/tiny"))
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=engine.PORT, log_level="warning", access_log=False, generate_client_file=False)
