"""The prediction log: from the files of the models into Postgres, and from there to the owners of the models."""
