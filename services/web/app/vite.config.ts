import { defineConfig } from "vite";

// A gateway that answers /v1 while `npm run dev` serves the page.
const gateway = process.env.SAMSERVE_URL ?? "http://127.0.0.1:8503";
const isolated = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
};

export default defineConfig({
  resolve: { conditions: ["source", "module", "browser", "development|production"] },
  worker: { format: "es" },
  server: { headers: isolated, proxy: { "/v1": gateway } },
  // The gateway serves this folder at /; all below assets/ has its hash in its name.
  build: { outDir: "../../samserve/web", emptyOutDir: true, target: "es2022", assetsInlineLimit: 0 },
});
