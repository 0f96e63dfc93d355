# The web service of a trained model: docker build -t classify . && docker run -p 8000:8000 classify
FROM python:3.12-slim
WORKDIR /app
COPY constraints.txt ./
# Only what the server imports, without torch; tests/serve/test_server.py compares the list.
RUN pip install --no-cache-dir -c constraints.txt albumentations==2.0.8 fastapi onnxruntime pi-heif psutil \
    python-multipart ruamel.yaml typer uvicorn
COPY pyproject.toml LICENSE README.md ./
COPY pipeline ./pipeline
RUN pip install --no-cache-dir --no-deps .
# If DVC linked it from a cache on another disk, run dvc unprotect results/model.onnx first.
COPY results/model.onnx ./results/
USER 1000
EXPOSE 8000
ENTRYPOINT ["python", "-m", "pipeline", "serve", "--host", "0.0.0.0"]
