import { defineConfig } from "vitest/config";

// A gateway that answers /v1 while `npm run dev` serves the page.
const gateway = process.env.SAMSERVE_URL ?? "http://127.0.0.1:8503";
const isolated = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
};

// The package beside this one is taken from its sources.
const conditions = ["source", "module", "browser", "development|production"];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } }, // where vitest looks
  test: { server: { deps: { inline: ["@samserve/decoder"] } } },
  worker: { format: "es" },
  server: { headers: isolated, proxy: { "/v1": gateway } },
  // The gateway serves this folder at /; all below assets/ has its hash in its name.
  build: {
    outDir: "../../samserve/web",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    rollupOptions: {
      input: { index: "index.html", sw: "src/sw.ts" },
      // A service worker serves the folder it is in.
      output: { entryFileNames: ({ name }) => (name === "sw" ? "sw.js" : "assets/[name]-[hash].js") },
    },
  },
});
