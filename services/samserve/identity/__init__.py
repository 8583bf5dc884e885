"""Who calls: API keys and the tenants they belong to, and the authoriser that the edge asks."""
