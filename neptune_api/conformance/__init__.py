"""The contract suite: every behaviour of the API as a test that runs against any server.

`neptune-api conformance --target URL` runs it against a server that is there; the tests of this project run the same
tests against servers of their own, over every wire and store. Needs the conformance extra.
"""
