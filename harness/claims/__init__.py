"""The paper's claims, held against the records: what each says, the test that was fixed beforehand, and the verdict."""
