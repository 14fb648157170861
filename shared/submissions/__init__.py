"""From requests to rows and jobs, without HTTP: the API submits for users, coordinators of studies for their points.

Every `submit` runs inside the caller's transaction. Mistakes are a `SubmissionError`, one sentence with its field.
"""
