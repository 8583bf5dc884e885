"""The domain: imported by every service, importing none of them."""
