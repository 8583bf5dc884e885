import { defineConfig } from "vitest/config";

// A busy machine may take any time for a test.
export default defineConfig({ test: { testTimeout: 600_000, hookTimeout: 600_000 } });
