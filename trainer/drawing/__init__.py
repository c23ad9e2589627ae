"""Images for people: panels of cases, their legends and captions."""
