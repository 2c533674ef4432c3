"""The facade: one typed method per unary RPC, with the fields of the request as keywords.

    python examples/facade.py

A server inside this process takes the place of one elsewhere. With NEPTUNE_API_TOKEN set, `ApiClient()` needs no
arguments.
"""

from __future__ import annotations

from neptune_api import models
from neptune_api.api.client import Client as ApiClient
from neptune_api.exceptions import NotFoundException, UnauthorizedException
from neptune_api.server import LocalServer


def main() -> None:
    """Create a project and a run, look at them, and see what goes wrong with bad input."""
    with LocalServer() as server, ApiClient(api_token=server.api_token) as client:
        me = client.post_get_user_identity()
        print(f"user     {me.username}, id {me.id}")

        project = client.post_create_project(name="demo", organization_identifier=server.workspace)
        run = client.post_create_run(project_identifier=project.id, experiment_name="first try")
        print(f"run      {run.organization_name}/{run.project_name}/{run.short_id}, experiment {run.experiment_name!r}")

        # A request message does as well as keywords.
        details = client.get_project_details(models.GetProjectDetailsRequest(project_identifier=project.id))
        member = client.post_get_project_member_v2(project_identifier=project.id, user_id=me.username)
        print(f"project  {details.name}, {models.ProjectRole.Name(member.role)} is {me.username}")

        try:
            client.get_project(project_identifier=f"{server.workspace}/nowhere")
        except NotFoundException as error:
            print(f"missing  {error}")

    try:
        ApiClient("no token at all")
    except UnauthorizedException as error:
        print(f"token    {error}")


if __name__ == "__main__":
    main()
