#!/bin/sh
# `mc ready local`: whether the server answers.
exec python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:9000/_ministack/health', timeout=4)"
