/** Icons, drawn with lines on 24 x 24. */

const PATHS = {
  select: "M5 3l6 16 2.5-6.5L20 10z",
  click: "M12 4v4M12 16v4M4 12h4M16 12h4M12 12h.01",
  box: "M5 5h3M16 5h3v3M19 16v3h-3M8 19H5v-3M5 8V5M11 5h2M11 19h2M5 11v2M19 11v2",
  brush: "M20 4c-5 2-9 6-11 10M9 14c-3 0-3 3-3 4s-1 2-2 2c3 1 7 0 7-3 0-1.5-.8-3-2-3z",
  eraser: "M4 15l9-9 6 6-7 7H8zM9 10l6 6M8 19h12",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  fit: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  undo: "M8 5L4 9l4 4M4 9h10a5.5 5.5 0 010 11h-3",
  redo: "M16 5l4 4-4 4M20 9H10a5.5 5.5 0 000 11h3",
  open: "M4 17V6a1 1 0 011-1h4l2 2h8a1 1 0 011 1v9a1 1 0 01-1 1H5a1 1 0 01-1-1zM12 10v5M9.5 12.5L12 10l2.5 2.5",
  folder: "M4 17V6a1 1 0 011-1h4l2 2h8a1 1 0 011 1v9a1 1 0 01-1 1H5a1 1 0 01-1-1z",
  export: "M12 4v11M8 11l4 4 4-4M5 19h14",
  import: "M12 15V4M8 8l4-4 4 4M5 19h14",
  grid: "M5 5h5v5H5zM14 5h5v5h-5zM5 14h5v5H5zM14 14h5v5h-5z",
  spark: "M12 4l1.8 5.2L19 11l-5.2 1.8L12 18l-1.8-5.2L5 11l5.2-1.8zM19 17v4M17 19h4",
  help: "M9.5 9.5a2.5 2.5 0 115 0c0 1.700-2.5 2-2.5 4M12 17h.01",
  sun: "M12 8a4 4 0 100 8 4 4 0 000-8zM12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1.1 1.1M17.3 17.3l1.1 1.1M5.6 18.400l1.1-1.1M17.3 6.700l1.1-1.1",
  moon: "M20 14a8 8 0 11-9.5-10 6.5 6.5 0 009.5 10z",
  auto: "M12 4a8 8 0 100 16 8 8 0 000-16zM12 4v16M12 8h6M12 12h8M12 16h6",
  eye: "M3 12s3.5-6 9-6 9 6 9 6-3.5 6-9 6-9-6-9-6zM12 9.5a2.5 2.5 0 100 5 2.5 2.5 0 000-5z",
  hidden: "M4 4l16 16M9.5 6.3A9.6 9.6 0 0112 6c5.5 0 9 6 9 6a17 17 0 01-2.6 3.2M6.5 8A16 16 0 003 12s3.5 6 9 6c1.3 0 2.5-.3 3.6-.8",
  edit: "M5 19l1-4L16 5l3 3L9 18zM14 7l3 3",
  trash: "M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12M10.5 10.5v5M13.5 10.5v5",
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6L6 18",
  refine: "M5 12a7 7 0 0112-5l2 2M19 5v4h-4M19 12a7 7 0 01-12 5l-2-2M5 19v-4h4",
  next: "M9 5l7 7-7 7",
  previous: "M15 5l-7 7 7 7",
  panel: "M4 5h16v14H4zM14 5v14",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
