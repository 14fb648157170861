"""SQL, one module per resource: `tx.NAME` of a `Transaction` is defined in `NAME.py`.

| module | API | table |
| --- | --- | --- |
| runs | `/v1/runs` | runs |
| run_deletions | `DELETE /v1/runs/{run}` | all tables of a run |
| run_forks | `/v1/runs/{run}/forks` | runs |
| external_runs | `/v1/runs/external`: runs that phema does not train | runs, jobs |
| snapshots | `/v1/snapshots`, and pins and retention of a run | snapshots |
| checkpoints | none | checkpoints |
| deletions | none: objects that no row names | deletions |
| history | `/v1/runs/{run}/history` | history |
| reconstructions | `/v1/reconstructions` | reconstructions |
| bases | `/v1/bases` | bases |
| evaluations | `/v1/evaluations` | evaluations |
| jobs | `/v1/jobs`: who asks for work | jobs, attempts |
| leases | none: who works on a job | jobs, attempts |
| scrape_targets | `/v1/prometheus/targets` | targets |
| idempotency | the header Idempotency-Key | idempotency |

`repository` and `results` hold their base classes.
"""
