"""Fields of the requests about projects, their members, users and tokens."""

from __future__ import annotations

from neptune_api.conformance.fields import Each, Ignored, Request, Set

_BY_PROJECT = Request({"project_identifier": "{project}"}, {"project_identifier": "{other}"})
_DISPLAY = {
    "avatar_url": "https://example.org/a.png",
    "avatar_source": Each(alike=frozenset({"AVATAR_SOURCE_DEFAULT"})),
    "display_class": "blue",
}

PROJECTS = {
    "ProjectsService.CreateProject": Request(
        {"name": "{new}", "organization_identifier": "{workspace}", "project_key": "{key}"},
        {
            "name": "{new}-2",
            "organization_identifier": "no-such-workspace",
            "description": "described",
            "project_key": "{key}2",
            "visibility": Each(alike=frozenset({"PROJECT_VISIBILITY_PRIV"})),
            "version": 1,
            **_DISPLAY,
        },
    ),
    "ProjectsService.GetProject": _BY_PROJECT,
    "ProjectsService.GetProjectDetails": _BY_PROJECT,
    "ProjectsService.ListProjects": Request(
        {"search_term": "{mark}"},  # which the projects of the scene have in their descriptions
        {
            "organization_identifier": "no-such-workspace",
            "user_relation": "viewer",
            "search_term": "{mark}-2",
            "sort_by": ["timeOfCreation"],
            "sort_direction": Set(["descending"], {"sort_by": ["name"]}),
            "offset": 1,
            "limit": 1,
        },
    ),
    "ProjectsService.UpdateProject": Request(
        {"project_identifier": "{fresh}", "project_to_update": {}},
        {
            "project_identifier": "{other}",
            **{
                f"project_to_update.{path}": value
                for path, value in {
                    "name": "{new}-2",
                    "description": "described",
                    "visibility": Each(alike=frozenset({"PROJECT_VISIBILITY_PRIV"})),
                    "code_access": Each(alike=frozenset({"PROJECT_CODE_ACCESS_DEFAULT"})),
                    "archived": True,
                    **_DISPLAY,
                }.items()
            },
        },
    ),
    "ProjectsService.DeleteProject": Request({"project_identifier": "{fresh}"}, {"project_identifier": "{fresh}-2"}),
}

MEMBERS = {
    "ProjectsService.ListProjectMembers": Request(
        {"project_identifier": "{project}"}, {"project_identifier": "{workspace}/no-such-project"}
    ),
    "ProjectsService.AddProjectMember": Request(
        {"project_identifier": "{fresh}", "member.user_id": "{colleague}", "member.role": "PROJECT_ROLE_VIEWER"},
        {
            "project_identifier": "{fresh}-2",
            "member.user_id": "no-such-user",
            "member.role": Each(alike=frozenset({"PROJECT_ROLE_VIEWER"})),
        },
    ),
    "ProjectsService.UpdateProjectMember": Request(
        {"project_identifier": "{fresh}", "user_id": "{colleague}", "member.role": "PROJECT_ROLE_VIEWER"},
        {
            "project_identifier": "{fresh}-2",
            "user_id": "no-such-user",
            "member.role": Each(alike=frozenset({"PROJECT_ROLE_VIEWER"})),
        },
    ),
    "ProjectsService.DeleteProjectMember": Request(
        {"project_identifier": "{fresh}", "user_id": "{colleague}"},
        {"project_identifier": "{fresh}-2", "user_id": "no-such-user"},
    ),
    "ProjectsService.GetProjectMemberV2": Request(
        {"project_identifier": "{fresh}", "user_id": "{colleague}"},
        {"project_identifier": "{fresh}-2", "user_id": "no-such-user"},
    ),
}

USERS = {
    "UsersService.ListUsers": Request({"username": ["{username}"]}, {"username": ["no-such-user"]}),
    "UsersService.CreateUser": Request(
        {"username": "{new}", "organization_identifier": "{workspace}"},
        {
            "username": "{new}-2",
            "organization_identifier": "no-such-workspace",
            "role": Each(alike=frozenset({"WORKSPACE_ROLE_MEMBER"})),
            "email": "ada@example.org",
            "first_name": "Ada",
            "last_name": "Lovelace",
        },
    ),
    "UsersService.GetUserIdentity": Request({}, {}),
    "UsersService.GetUserProfile": Request({}, {}),
}

TOKENS = {
    "AuthService.ExchangeApiToken": Request({"api_token": "{api_token}"}, {"api_token": "nonsense"}),
    "AuthService.RefreshToken": Request({"refresh_token": "{refresh_token}"}, {"refresh_token": "nonsense"}),
    "AuthService.GetApiToken": Request({}, {}),
    "AuthService.Authorize": Request({}, {}),
    "ConfigService.GetClientConfig": Request(
        {},
        {
            "api_token": Ignored("x", "asks for nothing: released clients send it along"),
            "alpha": Ignored("true", "asks for nothing: released clients send it along"),
        },
    ),
    "ConfigService.GetServerInfo": Request({}, {}),
}

MANAGING = {**PROJECTS, **MEMBERS, **USERS, **TOKENS}
