"""A run behind an HTTP server: OpenAI's chat-completions protocol around `Negotiator`, and a page (docs/serving.md).

It needs the extra `serve` (`pip install -e '.[serve]'`).
"""
