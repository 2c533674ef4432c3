// The API page: logs in with an API token and shows the viewer. Tokens stay in this closure; closing the page forgets them.
"use strict";
(() => {
  const state = document.getElementById("state");
  const input = document.getElementById("token");
  const exchangePath = "api/backend/v1/authorization/oauth-token";
  const early = 30; // seconds before its end at which an access token is replaced
  let apiToken = null;
  let access = null; // {token, expires}

  const expiry = (token) => {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(claims)).exp;
  };

  const logIn = async () => {
    const response = await fetch(exchangePath, { headers: { "X-Neptune-Api-Token": apiToken } });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.message);
    access = { token: answer.accessToken, expires: expiry(answer.accessToken) };
    return answer.username;
  };

  document.getElementById("login").addEventListener("submit", async (event) => {
    event.preventDefault();
    apiToken = input.value.trim();
    access = null;
    try {
      state.textContent = `logged in as ${await logIn()}`;
      input.value = "";
    } catch (error) {
      apiToken = null;
      state.textContent = error.message;
    }
  });

  const prepare = async (request) => {
    // The viewer shows JSON; some paths answer in binary when they are not asked for anything.
    if ((request.headers.accept ?? "*/*") === "*/*") request.headers.accept = "application/json";
    if (apiToken === null || new URL(request.url, location).origin !== location.origin) return request;
    if (access === null || access.expires - early < Date.now() / 1000) await logIn();
    request.headers.Authorization ??= `Bearer ${access.token}`;
    return request;
  };

  window.viewer = SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#viewer",
    deepLinking: true,
    docExpansion: "none",
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    filter: true,
    tryItOutEnabled: true,
    validatorUrl: null, // no request to anywhere else
    requestInterceptor: prepare,
    showMutatedRequest: false, // the command line it shows goes without the access token
  });
})();
