"""The words that stand for personal data which was taken out of a text, by its kind."""

MASKS = {"email": "<EMAIL>", "phone": "<PHONE>", "card": "<CARD>", "ip": "<IP>", "id": "<ID>"}
"""They look like tags and are none."""
PERSONAL_KINDS = tuple(MASKS)
REGIONS = ("US", "GB", "CN")
"""Whose national forms of phone numbers are known, unless it is said."""
