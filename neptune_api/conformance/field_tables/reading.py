"""Fields of the requests that read: attributes, series, searches.

There are the runs `root` and its fork `fork` of one experiment, and `leaf`, a fork of that of another one; see Scene.
"""

from __future__ import annotations

from typing import Any

from neptune_api.conformance.fields import Each, Ignored, Later, Request, Set, below

_NAME_FILTER = {
    "must_match_any.values": [{"mustMatchRegexes": ["^loss$"]}],
    "must_match_regexes": ["^loss$"],
    "must_not_match_regexes": ["^loss$"],
}


def _next_page(answer: Any) -> Any:
    return answer.next_page.next_page_token


_PAGE = {
    "next_page.limit": 1,
    "next_page.next_page_token": Later(_next_page, given={"next_page.limit": 1}),
}

ATTRIBUTES = {
    "AttributesService.QueryAttributeValues": Request(
        {"project_identifier": "{project}"},
        {
            "project_identifier": "{other}",
            **below(
                "query",
                {
                    "experiment_ids_filter.values": ["{fork}"],
                    "attribute_names_filter.values": ["loss"],
                    **below("attribute_name_filter", _NAME_FILTER),
                    "attribute_filter.attribute_type": Each(),
                    **_PAGE,
                },
            ),
        },
    ),
    "AttributesService.GetAttributes": Request(
        {"holder_identifier": "{root}"},
        {
            "holder_identifier": "{fork}",
            "holder_type": "project",
            "query.attribute_paths_filter.values": ["loss"],
        },
    ),
    "AttributesService.QueryAttributeDefinitions": Request(
        {"query.project_identifiers": ["{project}"]},
        {
            "project_identifier": "{other}",
            **below(
                "query",
                {
                    "project_identifiers": ["{other}"],
                    "experiment_ids_filter.values": ["{leaf}"],
                    **below("attribute_name_filter", _NAME_FILTER),
                    "attribute_name_regex": "^loss$",
                    "attribute_filter.attribute_type": Each(),
                    **_PAGE,
                },
            ),
        },
    ),
    "AttributesService.GetAttributeDefinitions": Request(
        {"experiment_identifier": "{root}"},
        {"experiment_identifier": "{leaf}", "attribute_type": Each()},
    ),
    "AttributesService.FilterAttributeDefinitions": Request(
        {"experiment_identifier": "{root}"},
        {
            "experiment_identifier": "{leaf}",
            "attribute_type": Each(),
            **below("query.attribute_name_filter", _NAME_FILTER),
        },
    ),
    "AttributesService.GetAttributeTree": Request(
        {"experiment_identifier": "{root}"},
        {
            "experiment_identifier": "{leaf}",
            "attribute_type": Each(),
            "prefix": "",
            "limit": 1,
            "offset": 1,
        },
    ),
}

_SERIES = {
    "attribute": "accuracy",
    "holder.identifier": "{root}",
    "holder.type": "project",
    "lineage": Each(alike=frozenset({"LINEAGE_FULL"})),
    "lineage_entity_type": Each(frozenset({"LINEAGE_ENTITY_TYPE_RUN"}), {"lineage": "LINEAGE_NONE"}),
    "include_preview": True,
    "normalize_to_first_value": True,
}


_RANGE = {"lower": 2.0, "upper": 2.0}
_LOSS = {"series.attribute": "loss", "series.holder.identifier": "{fork}", "series.holder.type": "experiment"}
_FLOATS = {"request.per_series_points_limit": 100, **below("request.requests", {"request_id": "a", **_LOSS})}
_TEXTS = below(
    "request.requests",
    {
        "request_id": "a",
        "series.attribute": "log",
        "series.holder.identifier": "{fork}",
        "series.holder.type": "experiment",
    },
)
_ORDER = Each(alike=frozenset({"SORT_DIRECTION_ASCENDING"}))


def _search_after(answer: Any) -> Any:
    return answer.series[0].search_after.token


_BUCKETS = {
    "expressions.request_id": "a",
    "expressions.run_id": "{fork}",
    "expressions.custom_y_formula": "${loss}",
    "view.max_buckets": 5,
    "view.x_axis.steps": {},
}

SERIES = {
    "SeriesService.GetFloatSeriesValues": Request(
        _FLOATS,
        below(
            "request",
            {
                "per_series_points_limit": 2,
                "order": _ORDER,
                **below("step_range", _RANGE),
                "requests.request_id": "b",
                **below("requests.series", _SERIES),
                "requests.after_step": 2.0,
            },
        ),
    ),
    "SeriesService.GetSingleFloatSeriesValues": Request(
        {"attribute": "loss", "experiment_id": "{fork}"},
        {
            "attribute": "accuracy",
            "experiment_id": "{root}",
            "include_preview": True,
            "limit": 2,
            "lineage": _SERIES["lineage"],
            "lineage_entity_type": Each(frozenset({"LINEAGE_ENTITY_TYPE_RUN"}), {"lineage": "LINEAGE_NONE"}),
            "skip_to_step": 2.0,
        },
    ),
    "SeriesService.GetSeriesValues": Request(
        _TEXTS,
        {
            "use_deprecated_string_fields": True,
            **below(
                "request",
                {
                    "per_series_points_limit": 1,
                    "order": _ORDER,
                    **below("step_range", _RANGE),
                    "size_limit_bytes": 1,
                    "requests.request_id": "b",
                    **below("requests.series", _SERIES),
                    "requests.series.include_preview": Ignored(True, "means nothing to series that have no previews"),
                    "requests.search_after.finished": Set(True, {"requests.search_after.token": ""}),
                    "requests.search_after.token": Later(_search_after, given={"size_limit_bytes": 1}),
                },
            ),
        },
    ),
    "SeriesService.GetTimeseriesBuckets": Request(
        _BUCKETS,
        {
            "expressions.request_id": "b",
            "expressions.run_id": "{root}",
            "expressions.custom_y_formula": "${accuracy}",
            "expressions.include_preview": True,
            "expressions.lineage": Each(given={"expressions.entity_type": "BUCKET_ENTITY_TYPE_RUN"}),
            "expressions.entity_type": Each(given={"expressions.lineage": "BUCKET_LINEAGE_ONLY_OWNED"}),
            "view.lower": 2.0,
            "view.upper": 2.0,
            "view.point_filters.step_range.lower": 2.0,
            "view.point_filters.step_range.upper": 2.0,
            "view.max_buckets": 3,
            "view.x_scale": Each(),
            "view.y_scale": Each(),
            "view.x_axis.steps": Set({}, {"view.x_axis.custom.expression": "x"}),
            "view.x_axis.epoch_millis": {},
            "view.x_axis.relative_time": {},
            "view.x_axis.custom.expression": "x",
        },
    ),
    "SeriesService.ReadColumns": Request(
        below("series", {path.removeprefix("series."): value for path, value in _LOSS.items()}),
        {**below("series", _SERIES), **below("step_range", _RANGE), "limit": 2},
    ),
}

_AGGREGATE = Each(
    alike=frozenset({"AGGREGATION_MODE_LAST", "AGGREGATION_MODE_AUTO", "AGGREGATION_MODE_NONE"}),
    given={"sorting.sort_by.name": "ranked", "sorting.sort_by.type": "ATTRIBUTE_TYPE_FLOAT_SERIES"},
    tolerated="the official service takes modes that it does not know for last, and clients rely on it",
)
_SEARCH = {
    "attribute_filters.path": "loss",
    "experiment_leader": True,
    "pagination.limit": 1,
    "pagination.offset": 1,
    "query.query": "count:int = 2",
    "sorting.dir": Each(alike=frozenset({"SORT_DIRECTION_DESCENDING"}), given={"sorting.sort_by.name": "count"}),
    "sorting.sort_by.name": "count",
    "sorting.sort_by.type": Each(
        given={
            "sorting.sort_by.name": "mixed",
            "sorting.dir": "SORT_DIRECTION_ASCENDING",
        }
    ),
    "sorting.sort_by.aggregation_mode": _AGGREGATE,
    "sorting.aggregation_mode": _AGGREGATE,
    "grouping.group_by.name": "count",
    "grouping.group_by.type": Each(),
    "grouping.group_by.aggregation_mode": Each(),
    "query_name_aliases.experiment_aliases.name_alias": "a",
    "query_name_aliases.experiment_aliases.original_id": "e",
    "query_name_aliases.run_aliases.name_alias": "a",
    "query_name_aliases.run_aliases.original_id": "root",
    "truncate_string_to": 1,
}
_FOUND = {"params.attribute_filters.path": "sys/custom_run_id"}

SEARCH = {
    "LeaderboardService.SearchLeaderboardEntries": Request(
        {"project_identifier": "{project}", "type": ["run"], **_FOUND},
        {"project_identifier": "{other}", "type": ["model"], **below("params", _SEARCH)},
    ),
    # Only the runs of the scene, whatever else the caller may see.
    "LeaderboardService.SearchGlobalLeaderboardEntries": Request(
        {**_FOUND, "params.query.query": "mark:string = {mark}"},
        below("params", _SEARCH),
    ),
}

READING = {**ATTRIBUTES, **SERIES, **SEARCH}
