"""The pages that the API serves to browsers, over the same services as the JSON endpoints."""
