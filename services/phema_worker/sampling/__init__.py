"""`sample` jobs: pictures drawn without scoring them."""
