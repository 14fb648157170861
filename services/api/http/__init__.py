"""What all resources share.

- Errors: `problems` (the classes), `problem_documents` (their JSON), `validation` (sentences for wrong fields).
- Requests: `schema_base` (base models, common parameters), `dependencies`, `query_parameters`, `body_text`,
  `idempotency`, `planning_queue`, `downloads`.
- Middleware: `auth`, `cross_site`, `body_format`, `body_limit`, `request_id`, `request_metrics`.
- `openapi` (the document), `docs_page` (Swagger UI), `server` (the socket and the process), `bounded_protocol` (slow
  and very many clients).
"""
