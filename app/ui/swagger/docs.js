// Shows openapi.json; the key that is typed in stays in this tab.
window.addEventListener("load", () => {
  window.SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#api",
    deepLinking: true,
    validatorUrl: null, // it would send the description to a foreign host
    tryItOutEnabled: true,
    persistAuthorization: false,
    defaultModelsExpandDepth: 0,
  });
});
